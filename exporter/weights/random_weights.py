"""Random weights of a model, which are quick to make at any size, and of which every one affects the output.

open_clip's own initialisation is made for training: the last batch norm of a residual block starts at zero and layer scales at
1e-5, so most of a new network does not affect its output, and a parity test on it would not detect a wrong graph. It
also takes minutes for models of billions of parameters. Here construction skips the random fills, and one seeded pass
gives every parameter values that keep activations near unit size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# torch's initialisers, and the in-place steps of which timm and transformers make their own. Constant fills (ones, zeros) are not
# skipped, because their tensors are small, and masks are made with them.
_INITIALIZERS = frozenset(
    {
        "normal_",
        "uniform_",
        "trunc_normal_",
        "xavier_normal_",
        "xavier_uniform_",
        "kaiming_normal_",
        "kaiming_uniform_",
        "orthogonal_",
    }
)
_RANDOM_STEPS = _INITIALIZERS | {"erfinv_", "mul_", "div_", "add_", "sub_", "clamp_"}
_SKIP_FROM = 65536  # elements; smaller tensors cost almost nothing, and computed buffers (masks) are smaller
_CHUNK = 1 << 20  # the number of elements drawn at a time


class _SkipRandomSteps(TorchFunctionMode):
    """A mode in which in-place random fills of large tensors do nothing, so that their memory is never touched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _RANDOM_STEPS:
            tensor = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= _SKIP_FROM:
                return tensor
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def uninitialized_parameters() -> Iterator[None]:
    """Leave the large parameters of models built inside the context uninitialised; all must be filled or loaded afterwards."""
    with _SkipRandomSteps():
        yield


# Mean and standard deviation of the weights of norms.
_PLAIN_NORM, _BRANCH_END, _PARALLEL_BRANCH = (1.0, 0.1), (0.2, 0.05), (0.4, 0.05)


def fill_random(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """Give every parameter and batch-norm statistic of `model` seeded random values of `dtype`, in place.

    Weights get a standard deviation of ``fan_in ** -0.5`` (with the gain of ReLU for convolutions), norms a scale of about 1,
    layer scales and norms at the ends of branches less (`_norm_scales`), embeddings 0.3, biases 0.02. Scalars (logit scale and
    bias) keep their values. The values do not depend on `dtype`, except for rounding, or on the number of threads.

    Args:
        model: any open_clip model; parameters that are shared are filled once.
        seed: the seed of the generator.
        dtype: the dtype of all floating-point parameters and buffers afterwards. One tensor at a time is converted, so that a
            model built in `uninitialized_parameters` never takes the memory of its float32 form.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    scales, queries = _norm_scales(model), _query_scales(model)
    with torch.no_grad():
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                if parameter.numel() == 1:
                    parameter.data = parameter.data.to(dtype)
                    continue
                mean, std = _moments(scales.get(path, _PLAIN_NORM), module, name, parameter)
                std *= queries.get(path, 1.0)
                if parameter.dtype != dtype:
                    parameter.data = torch.empty(parameter.shape, dtype=dtype)
                _fill_normal(parameter.data, mean, std, generator)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                _fill_normal(module.running_mean, 0.0, 0.1, generator)
                if module.running_var is not None:
                    module.running_var.uniform_(0.5, 1.5, generator=generator)
            cast_buffers(module, dtype)


def cast_buffers(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the floating-point buffers of `module` itself (not of its children) to `dtype`."""
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point() and buffer.dtype != dtype:
            setattr(module, name, buffer.to(dtype))


def _norm_scales(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Find norms whose weights are small after training, with mean and standard deviation of their weights.

    These are norms at the ends of residual branches (a ResNet block's last norm, both norms of EVA02-E's blocks), and the norms of
    FastViT's parallel branches, which add up. With weights of 1, the stream of such blocks grows with depth until attention, which
    reads it unnormalized, selects single tokens, and until float16 overflows: a rounding error then grows from block to block,
    unlike with trained weights.
    """
    scales = {}
    for path, module in model.named_modules():
        if path.endswith(".bn3"):
            scales[path] = _BRANCH_END
        kind = type(module).__name__
        if kind == "EvaBlockPostNorm":
            scales |= {f"{path}.norm1": _BRANCH_END, f"{path}.norm2": _BRANCH_END}
        if kind in ("MobileOneBlock", "RepMixer"):
            inside = [name for name, child in module.named_modules() if isinstance(child, nn.BatchNorm2d)]
            scales |= {f"{path}.{name}": _PARALLEL_BRANCH for name in inside}
    return scales


def _query_scales(model: nn.Module) -> dict[str, float]:
    """Find the query projections of T5's attention, with the factor of their weights: its scores are not divided by √D."""
    scales = {}
    for path, module in model.named_modules():
        head_size = getattr(module, "key_value_proj_dim", None)
        if head_size is not None and type(module).__name__.endswith("Attention"):
            scales[f"{path}.q"] = float(head_size) ** -0.5
    return scales


def _moments(
    norm_scale: tuple[float, float], module: nn.Module, name: str, parameter: torch.Tensor
) -> tuple[float, float]:
    """Return the mean and standard deviation for one parameter's values."""
    kind = type(module).__name__.lower()
    if "norm" in kind and parameter.ndim == 1:
        if name != "weight":
            return 0.0, 0.1
        return norm_scale
    if "gamma" in name or "layerscale" in kind:
        return 0.2, 0.05
    if isinstance(module, nn.Embedding):
        return 0.0, 0.3
    if name.endswith("bias"):
        return 0.0, 0.02
    if parameter.ndim == 1 or any(
        word in name for word in ("pos", "cls", "token", "query", "latent", "probe", "embedding")
    ):
        return 0.0, 0.3
    fan_in = parameter[0].numel()
    gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
    return 0.0, (gain / fan_in) ** 0.5


def _fill_normal(tensor: torch.Tensor, mean: float, std: float, generator: torch.Generator) -> None:
    """Fill a tensor with normal values drawn in float32 and in chunks; a half-precision tensor gets the same values, rounded."""
    flat = tensor.view(-1)
    scratch = torch.empty(
        min(_CHUNK, flat.numel())
    )  # one buffer for all chunks, because short-lived ones would fragment the heap
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        part.copy_(scratch[: part.numel()].normal_(mean, std, generator=generator))
