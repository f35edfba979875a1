"""What a swap writes down until all of it is known, and what it then reports; see `kernels.swap`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

Mode = Literal["auto", "triton", "native"]


class UnknownBlockError(ValueError):
    """A tower has a block that no fused module can take the place of; nothing was swapped."""


@dataclass(frozen=True)
class SwapReport:
    """What was swapped.

    Attributes:
        mode: that was asked for.
        swapped: kernel -> how many of its modules stand in the tower now.
        kept: kind of module -> how many stay native: no kernel serves them, or the table says that the native one wins.
    """

    mode: Mode
    swapped: Mapping[str, int]
    kept: Mapping[str, int]


@dataclass
class Plan:
    """What goes where.

    Attributes:
        wins: whether a kernel is taken, by its name and the last numbers of its shape.
        places: module, attribute and what will stand there.
        swapped, kept: of the report.
    """

    wins: Callable[[str, tuple[int, ...]], bool]
    places: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list)
    swapped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)


def kind(module: object) -> str:
    """A class by its full name: this package knows others' classes, and imports none of them."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def unknown(module: object) -> UnknownBlockError:
    """The error for a module that is not known."""
    return UnknownBlockError(f"no fused module is known for {kind(module)}: use native kernels for this tower")
