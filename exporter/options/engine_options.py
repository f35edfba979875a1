"""The user's options for engines that are built: targets, batch sizes, and the builder's options, checked and typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engines.manifest import KernelMode, Range
from engines.schema.ranges import NUMBERS
from exporter.errors import ExportError
from exporter.options.flags import convert_fields, flag, several

HardwareCompatible = Literal["ampere+", "same-compute-capability"]
HARDWARE_COMPATIBLE: tuple[HardwareCompatible, ...] = ("ampere+", "same-compute-capability")
OPTIMIZATION_LEVELS = range(6)
KERNEL_MODES: tuple[KernelMode, ...] = get_args(KernelMode)
# From one image to a batch that fills an A100-class GPU; a text tower of the same bundle has the same sizes.
DEFAULT_BATCHES = (Range(min=1, opt=32, max=128),)


def _lower(targets: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(str(target).lower() for target in several(targets))


def parse_batches(texts: str | int | Range | Sequence[str | int | Range]) -> tuple[Range, ...]:
    """Parse ``["1:1:8", "64"]`` to ranges; one number is a fixed batch size, and a range is kept.

    Raises:
        ExportError: a text is not of this form.
    """
    ranges = []
    for text in several(texts):
        if isinstance(text, Range):
            ranges.append(text)
            continue
        parts = str(text).split(":")
        if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
            raise ExportError(f"batch {text!r} is not MIN:OPT:MAX, as in 1:32:128 (or one number for a fixed batch)")
        numbers = [int(part) for part in parts]
        low, best, high = numbers if len(numbers) == 3 else numbers * 3
        ranges.append(Range(min=low, opt=best, max=high))
    return tuple(ranges)


def parse_bytes(text: str | float) -> int:
    """Parse ``4GiB``, ``512MiB`` or a number of bytes, as text or as a number.

    Raises:
        ExportError: the text is none of these, or out of range.
    """
    units = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
    lower = str(text).strip().lower()
    number, factor = lower, 1
    for unit, size in units.items():
        if lower.endswith(unit):
            number, factor = lower.removesuffix(unit).strip(), size
            break
    try:
        value = float(number) * factor
    except ValueError:
        value = -1.0
    if not 0 <= value < 1 << 62:
        raise ExportError(f"{text!r} is no amount of memory: write 4GiB, 512MiB or a number of bytes")
    return int(value)


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engines that are built ahead of time; ONNX Runtime takes none, AOTInductor targets, batches and kernels.

    Attributes:
        targets: the targets, such as ``sm80`` or ``cpu``; empty is this machine's GPU (for AOTInductor its CPU, without a GPU).
        batches: the ranges of batch sizes, with one optimization profile for each. AOTInductor takes any batch from 1 (on a GPU up
            to the largest `max`), and its one program for all of them is fastest at the largest `opt`.
        workspace: the most bytes of device memory that a layer may use besides its tensors; None is all device memory.
        optimization_level: a number from 0 (fastest build) to 5 (longest search); None is the library's default, 3.
        timing_cache: the file of measured kernel times, read and written; None is a file in the user's cache folder.
        version_compatible: whether the engine also runs with later versions of the same major version of the library.
        hardware_compatible: the set of other GPUs on which the engine also runs, at some cost of speed; None: no others.
        strip_weights: whether the engine is without weights, which are then taken from the bundle's ONNX graph when it is loaded.
        kernels: the selection of this project's Triton kernels for AOTInductor's packages: ``triton`` is all, ``native`` is none,
            ``auto`` is those that were measured to be faster on the target.
    """

    targets: tuple[str, ...] = flag(
        (),
        "--target",
        action="append",
        metavar="SM",
        convert=_lower,
        help="GPU architecture, as in sm80, or cpu for aotinductor; repeatable (default: the GPU here, for aotinductor else the "
        "CPU; tensorrt-rtx builds for any without it)",
    )
    batches: tuple[Range, ...] = flag(
        DEFAULT_BATCHES,
        "--batch",
        action="append",
        metavar="MIN:OPT:MAX",
        convert=parse_batches,
        help="batch sizes of an optimization profile; repeatable (default: 1:32:128)",
    )
    workspace: int | None = flag(
        None,
        "--workspace",
        metavar="SIZE",
        convert=parse_bytes,
        help="most device memory for a layer's scratch, as in 4GiB",
    )
    optimization_level: int | None = flag(
        None,
        "--optimization-level",
        type=int,
        metavar="0-5",
        help="0 builds fastest, 5 searches longest (default: 3)",
    )
    timing_cache: Path | None = flag(
        None,
        "--timing-cache",
        metavar="FILE",
        convert=Path,
        help="kernel times kept between builds (default: one in ~/.cache)",
    )
    version_compatible: bool = flag(
        False,
        "--version-compatible",
        help="the engine also runs with later TensorRT versions; may be slower",
    )
    hardware_compatible: HardwareCompatible | None = flag(
        None,
        "--hardware-compatible",
        choices=HARDWARE_COMPATIBLE,
        help="the engine also runs on other GPUs; slower",
    )
    kernels: KernelMode = flag(
        "auto",
        "--kernels",
        choices=KERNEL_MODES,
        help="this project's Triton kernels in aotinductor's packages: those that measured faster on the target, all, or none",
    )
    strip_weights: bool = flag(
        False,
        "--strip-weights",
        help="engines without weights, which are taken from the ONNX graph when they are loaded",
    )

    def __post_init__(self) -> None:
        convert_fields(self)
        twice = sorted({target for target in self.targets if self.targets.count(target) > 1})
        if twice:
            raise ExportError(f"target {twice[0]} was given twice: name each target once")
        if not self.batches:
            raise ExportError("no batch size was given: pass --batch MIN:OPT:MAX")
        if len(set(self.batches)) != len(self.batches):
            raise ExportError("a batch profile was given twice: name each once")
        for batch in self.batches:
            if not 1 <= batch.min <= batch.opt <= batch.max:
                raise ExportError(
                    f"batch {batch.min}:{batch.opt}:{batch.max} is not ordered: MIN:OPT:MAX must be 1 <= MIN <= OPT <= MAX"
                )
            most = int(NUMBERS["Range.max"][1])
            if batch.max > most:
                raise ExportError(f"batch {batch.max} is more than a bundle can say: pass --batch with at most {most}")
        if self.workspace is not None and self.workspace < 1 << 20:
            raise ExportError(f"workspace of {self.workspace} bytes is less than a MiB: pass it as in --workspace 4GiB")
        if self.optimization_level is not None and self.optimization_level not in OPTIMIZATION_LEVELS:
            raise ExportError(f"optimization level {self.optimization_level} is none of 0 to 5")
