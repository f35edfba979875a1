"""A GPU's suite for a CPU, to try its commands where there is no GPU: the same parts and steps, at tiny shapes.

The figures mean nothing: the trial shows that every step runs and leaves its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.suites.definitions import Ceilings, Facts, Kernels, Package, Step, Suite, Sweep, Tests

_MODEL = "ViT-S-32"  # among the smallest that open_clip knows by name
_BATCHES = (2, 1)


def stand_in(suite: Suite) -> Suite:
    """The suite for a CPU; steps that become the same are one, and of a part's packages, half a minute each, there is one."""
    parts = {name: tuple(dict.fromkeys(_small(step) for step in _few(steps))) for name, steps in suite.parts.items()}
    return replace(suite, device="cpu", parts=parts, rounds=2, round_seconds=0.001)


def _few(steps: Sequence[Step]) -> list[Step]:
    packages = [step for step in steps if isinstance(step, Package)]
    return [step for step in steps if step not in packages[1:]]


def _small(step: Step) -> Step:
    if isinstance(step, Ceilings):
        return Ceilings(sizes=(128,), seconds=0.02)
    if isinstance(step, Facts):
        return Facts(((64, 32, 48),), "fp32")
    if isinstance(step, Package):
        return replace(step, model="demo", batches=_BATCHES, precision="fp32", blocks=1, seconds=0.05)
    if isinstance(step, Kernels):
        towers = ("stand-in image", "stand-in text")
        return replace(step, towers=towers, batches=_BATCHES[:1], precision="fp32", rounds=2, compiles=False)
    if isinstance(step, Tests):
        return Tests(("tests/engines/test_onnxruntime_gpu.py",))  # which says of each test that there is no GPU
    assert isinstance(step, Sweep)
    if step.precision is None:
        return replace(step, model=_MODEL, contenders=("eager", "null"), batches=(1,))
    return replace(step, model="demo", precision="fp32", engines=("onnxruntime",), contenders=("eager",), batches=(1,))
