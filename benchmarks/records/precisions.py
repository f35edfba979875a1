"""The precisions of rows: those of bundles (`engines.precisions`), and one more that only measurements have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.precisions import PRECISIONS

if TYPE_CHECKING:
    import torch

# float32 operands whose products are computed in TensorFloat-32; no bundle is made in it.
TF32 = "tf32"
# From wide to narrow.
NAMES = tuple(name for entry in PRECISIONS for name in ((entry, TF32) if entry == "fp32" else (entry,)))
UNQUANTIZED = tuple(name for name, entry in PRECISIONS.items() if entry.quantized is None)
# Bytes of one operand of a linear layer.
OPERAND_BYTES = {name: PRECISIONS["fp32" if name == TF32 else name].operand_bytes for name in NAMES}


def torch_dtype(precision: str) -> torch.dtype:
    """PyTorch's dtype of weights and activations that are not quantized.

    Raises:
        KeyError: the precision is none of a bundle's.
    """
    import torch

    dtype: torch.dtype = getattr(torch, PRECISIONS[precision].dtype)
    return dtype
