"""The precisions of bundles: dtypes, limits of the parity gate, and hardware requirements. This module needs no torch.

A new precision is one entry here, its arithmetic in ``exporter/quantization/operators.py`` if it is quantized, a test, a row in the
documentation and in ``engines/FORMAT.md``. Command line flags, the manifest's schema, the gate and the plots read this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Names of the table's entries for type checkers, because these cannot read a table; a test compares both.
PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
QuantizedDtype = Literal["int8", "float8_e4m3fn"]


@dataclass(frozen=True)
class PrecisionEntry:
    """One precision: its command line flag is ``--<name>``.

    Attributes:
        name: the precision in manifests and on command lines.
        dtype: name of the dtype of all units that are not quantized.
        flag_help: the text of ``--help``.
        min_cosine: lowest cosine that the gate allows between one embedding and eager float32's.
        mean_cosine: lowest mean of those cosines that the gate allows.
        top1_agreement: lowest share of images whose best caption is eager's best caption.
        tie_margin: a caption whose eager cosine is this close to the best caption's counts as the best.
        quantized: name of the dtype of the linear layers' operands; None: they are in `dtype`.
        operand_bytes: bytes of one number in a linear layer's operands.
        capability: compute capability of the first GPUs that have its arithmetic, 89 for sm89; 0: any GPU, and CPUs.
        default_target: the GPU architecture for which a quantized bundle is built on a machine without a GPU: the first with such
            arithmetic for which `exporter` can build; None: the precision is not quantized.
        accuracy_loss: largest allowed fall of a task's accuracy below eager float32's, as a share: 0.001 is 0.1 percentage points.
        remedy: the advice in the error of a gate that failed.
    """

    name: PrecisionName
    dtype: str
    flag_help: str
    min_cosine: float
    mean_cosine: float
    top1_agreement: float
    tie_margin: float
    operand_bytes: int
    quantized: QuantizedDtype | None = None
    capability: int = 0
    default_target: str | None = None
    accuracy_loss: float = 0.001
    remedy: str = ""


# All precisions, from wide to narrow.
PRECISIONS: dict[str, PrecisionEntry] = {
    entry.name: entry
    for entry in (
        PrecisionEntry(
            "fp32",
            dtype="float32",
            flag_help="the default",
            min_cosine=0.99999,
            mean_cosine=0.999995,
            top1_agreement=0.99,
            tie_margin=1e-5,
            operand_bytes=4,
        ),
        PrecisionEntry(
            "fp16",
            dtype="float16",
            flag_help="fp16 graphs",
            min_cosine=0.999,
            mean_cosine=0.9995,
            top1_agreement=0.95,
            tie_margin=2e-3,
            operand_bytes=2,
            remedy="choose a wider precision (--fp32)",
        ),
        PrecisionEntry(
            "bf16",
            dtype="bfloat16",
            flag_help="bf16 graphs",
            min_cosine=0.995,
            mean_cosine=0.997,
            top1_agreement=0.9,
            tie_margin=1e-2,
            operand_bytes=2,
            accuracy_loss=0.005,
            remedy="choose a wider precision (--fp16 has more digits, --fp32 all)",
        ),
        PrecisionEntry(
            "int8",
            dtype="float16",
            flag_help="int8 linear layers; needs --calibration",
            min_cosine=0.97,
            mean_cosine=0.99,
            top1_agreement=0.9,
            tie_margin=1e-2,
            operand_bytes=1,
            quantized="int8",
            default_target="sm80",
            accuracy_loss=0.005,
            remedy="calibrate with more inputs like yours, or choose a wider precision (--fp16)",
        ),
        PrecisionEntry(
            "fp8",
            dtype="float16",
            flag_help="float8 linear layers for sm89 and newer; needs --calibration",
            min_cosine=0.97,
            mean_cosine=0.99,
            top1_agreement=0.9,
            tie_margin=1e-2,
            operand_bytes=1,
            quantized="float8_e4m3fn",
            capability=89,
            default_target="sm89",
            accuracy_loss=0.005,
            remedy="calibrate with more inputs like yours, or choose a wider precision (--fp16)",
        ),
    )
}

QUANTIZED: tuple[str, ...] = tuple(name for name, entry in PRECISIONS.items() if entry.quantized is not None)
