"""The part of a bundle's manifest that describes its engines; `engines.manifest` is the whole.

The format in prose is ``engines/FORMAT.md``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TowerName = Literal["image", "text"]


class BatchProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Batch sizes that an engine takes in one run; `max` None means that there is no limit."""

    min: int = 1
    opt: int | None = None
    max: int | None = None


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes that one dimension of an input may have: from `min` to `max`; the engine is fastest at `opt`."""

    min: int
    opt: int
    max: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One optimization profile of an engine whose kernels were chosen for a range of shapes."""

    batch: Range
    length: Range | None = None  # for text towers with a dynamic length


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The library and the device for which an engine was built."""

    library: str
    version: str
    device: str | None = None  # "sm80" …, "cpu"; None: any device that the library supports
    isa: str | None = (
        None  # instruction set of the CPU that the engine's code uses, "avx512"; None: the library chooses
    )
    # Other devices on which the engine runs: Ampere GPUs and later, or all of the same compute capability. None: only `device`.
    device_compatible: Literal["ampere+", "same-compute-capability"] | None = None
    version_compatible: bool = False  # later versions of the library within the same major version run it, too


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about an engine's build: its cost, the layers, and the builder's options."""

    seconds: float
    peak_memory_bytes: int  # host memory of the building process
    fused_attention: int  # number of attention blocks that one kernel computes
    decomposed_attention: int  # number of attention blocks without such a kernel: matrix products and a softmax
    layers: dict[str, dict[str, int]] = {}  # type of layer -> dtype of its output -> count, in the parsed network
    options: dict[str, bool | int | str] = {}  # the builder's options that are not the library's defaults


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of one tower. A tower may have several; `engines.load` chooses one."""

    kind: str  # a name of `engines.engine_kinds`, such as "onnxruntime"; a bundle of a newer release may have others
    tower: TowerName
    file: str
    target: Target
    batch: BatchProfile = BatchProfile()  # the range over all profiles
    profiles: tuple[Profile, ...] = ()
    stripped: bool = False  # the file holds no weights: loading takes them from the tower's graph
    input_layout: Literal["padded", "packed"] = "padded"  # packed: ids end to end, and the start of each caption
    inspector: str | None = None  # JSON of the library's engine inspector: every layer of the built engine
    build: Build | None = None  # None: there was nothing to build
