"""The rounding simulation: a float32 tower runs with every layer's weights, inputs and outputs rounded to a shorter dtype.

Accumulation stays in float32, as in the matrix units of GPUs. The simulation measures the cost of a precision plan, infinities
included, on a machine without float16 arithmetic (ONNX Runtime's CPU provider computes float16 graphs in float32 and would
hide both), without a second copy of the weights, and before anything is converted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from exporter.precision.precisions import PrecisionPlan
from exporter.towers.blocks import DotProduct
from exporter.towers.modules import TowerModule
from exporter.towers.units import Unit


def round_to(value: Any, dtype: torch.dtype) -> Any:
    """Round every float32 tensor in `value` to `dtype` and back; other objects stay as they are."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype).to(torch.float32) if value.dtype == torch.float32 else value
    if isinstance(value, tuple):
        return tuple(round_to(item, dtype) for item in value)
    return value


def layers_of(unit: Unit) -> Iterator[nn.Module]:
    """The modules of a unit that compute, which are its leaves."""
    for module in unit.modules():
        if module is not unit and not any(True for _ in module.children()):
            yield module


@contextlib.contextmanager
def rounded(tower: TowerModule, plan: PrecisionPlan) -> Iterator[None]:
    """Make the float32 `tower` compute, inside the context, as it would after ``apply_plan(tower, plan)`` on a GPU."""
    with contextlib.ExitStack() as stack:
        for name, unit in tower.encoder.units():
            stack.enter_context(rounded_unit(unit, plan.compute_dtype(name), plan.stream))
        yield


@contextlib.contextmanager
def rounded_unit(unit: Unit, compute: torch.dtype, stream: torch.dtype) -> Iterator[None]:
    """Round one float32 unit, inside the context, as if its dtypes were `compute` and `stream`."""
    entry = unit.entry()
    entry_dtype = torch.float32 if torch.float32 in (compute, stream) else compute
    with contextlib.ExitStack() as stack:
        for layer in layers_of(unit):
            dtype = entry_dtype if layer is entry else compute
            if dtype != torch.float32:
                stack.enter_context(_rounded_layer(layer, dtype))
        if compute != torch.float32:
            stack.enter_context(_rounded_parameters(unit, compute))
            if entry is None:
                hook = unit.register_forward_pre_hook(lambda module, inputs: round_to(inputs, compute))
                stack.callback(hook.remove)
        if stream != torch.float32:
            hook = unit.register_forward_hook(lambda module, inputs, output: round_to(output, stream))
            stack.callback(hook.remove)
        yield


@contextlib.contextmanager
def _rounded_layer(layer: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    before = layer.register_forward_pre_hook(lambda module, inputs: round_to(inputs, dtype))
    after = layer.register_forward_hook(lambda module, inputs, output: round_to(output, dtype))
    with _rounded_parameters(layer, dtype):
        try:
            yield
        finally:
            before.remove()
            after.remove()


@contextlib.contextmanager
def _rounded_parameters(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Round the module's own parameters only while it runs, so that one layer's copy exists at a time."""
    exact: dict[str, torch.Tensor] = {}

    def swap_in(module: nn.Module, inputs: Any) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            exact[name] = parameter.data
            parameter.data = round_to(parameter.data, dtype)

    def swap_out(module: nn.Module, inputs: Any, output: Any) -> None:
        for name, data in exact.items():
            getattr(module, name).data = data
        exact.clear()

    if not any(True for _ in module.parameters(recurse=False)):
        yield
        return
    hooks = (
        module.register_forward_pre_hook(swap_in, prepend=True),
        module.register_forward_hook(swap_out, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def watched(tower: TowerModule, record: Callable[[str, str, float], None]) -> Iterator[None]:
    """Call ``record(unit, place, largest)``, inside the context, with the largest magnitude at every layer of every unit.

    Places are ``stream`` (the unit's output), ``logits`` (scaled query-key products) and the layers' names.
    """
    hooks: list[Any] = []
    for name, unit in tower.encoder.units():
        layers = {id(module): path for path, module in unit.named_modules()}
        for layer in layers_of(unit):
            hooks.append(layer.register_forward_hook(_recorder(name, layers[id(layer)], record)))
        hooks.append(unit.register_forward_hook(_recorder(name, "stream", record)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _recorder(unit: str, place: str, record: Callable[[str, str, float], None]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        for value in (output, *(inputs if place != "stream" else ())):
            tensors = value if isinstance(value, tuple) else (value,)
            for tensor in tensors:
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    record(unit, place, _largest(tensor))
        if isinstance(module, DotProduct):
            q, k = inputs[0], inputs[1]
            logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5)
            record(unit, "logits", _largest(logits))

    return hook


def _largest(tensor: torch.Tensor) -> float:
    """The largest magnitude; NaN where there is one. One pass without a copy takes a tenth of the time of `abs` and `max`."""
    low, high = torch.aminmax(tensor)
    return float(torch.maximum(-low, high))
