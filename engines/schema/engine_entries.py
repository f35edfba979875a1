"""The part of a bundle's manifest that describes its engines; `engines.manifest` is the whole.

The format in prose is ``engines/FORMAT.md``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TowerName = Literal["image", "text"]


class BatchProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Batch sizes an engine takes in one run; `max` None means any."""

    min: int = 1
    opt: int | None = None
    max: int | None = None


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes that one dimension of an input may take: from `min` to `max`, and fastest at `opt`."""

    min: int
    opt: int
    max: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One optimization profile of an engine whose kernels were chosen for a range of shapes."""

    batch: Range
    length: Range | None = None  # of text towers with a dynamic length


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine was built for."""

    library: str
    version: str
    device: str | None = None  # "sm80" …, "cpu"; None: any device of the library
    isa: str | None = (
        None  # instruction set of the CPU that the engine's code uses, "avx512"; None: the library chooses
    )
    # Which other devices it runs on: those of Ampere and later, or all of the same compute capability. None: only `device`.
    device_compatible: Literal["ampere+", "same-compute-capability"] | None = None
    version_compatible: bool = False  # later versions of the library of the same major version run it, too


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine was built, and what came out."""

    seconds: float
    peak_memory_bytes: int  # of the building process, on the host
    fused_attention: int  # attention blocks that one kernel computes
    decomposed_attention: int  # attention blocks without such a kernel: matrix products and a softmax
    layers: dict[str, dict[str, int]] = {}  # type of layer -> dtype of what it gives -> count, in the parsed network
    options: dict[str, bool | int | str] = {}  # of the builder, where they are not the library's defaults


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of one tower. Several may stand for one tower; `engines.load` chooses."""

    kind: str  # a name of `engines.kinds`, such as "onnxruntime"; a bundle of a newer release may have others
    tower: TowerName
    file: str
    target: Target
    batch: BatchProfile = BatchProfile()  # over all profiles
    profiles: tuple[Profile, ...] = ()
    stripped: bool = False  # the file holds no weights: they are taken from the tower's graph when it is loaded
    input_layout: Literal["padded", "packed"] = "padded"  # packed: ids end to end, and where each caption starts
    inspector: str | None = None  # JSON of the library's engine inspector: every layer of the built engine
    build: Build | None = None  # None: there was nothing to build
