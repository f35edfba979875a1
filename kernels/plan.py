"""What a swap writes down until all of it is known, and what it then reports; see `kernels.swap`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
        swapped: kernel -> how many of its modules stand in the tower now. A variant is named behind the kernel: "attention flash".
        kept: kind of module -> how many stay native: no kernel serves them, or the table says that the native one wins.
    """

    mode: Mode
    swapped: Mapping[str, int]
    kept: Mapping[str, int]


@dataclass
class Plan:
    """What goes where.

    Attributes:
        choose: the implementation of an op at a shape, among those that are allowed; see `kernels.choices.choose`.
        capability: of the GPU: 80, 90, …; 0 is the CPU.
        half: the operands have 16 bits.
        rows: the usual batch, or None.
        tokens: of a row, or None where they vary.
        measured: `choose` goes by measurements; else it takes the first that is allowed.
        places: module, attribute and what will stand there.
        swapped, kept: of the report.
    """

    choose: Callable[[str, Sequence[int | None], Sequence[str]], str]
    capability: int
    half: bool
    rows: int | None = None
    tokens: int | None = None
    measured: bool = True
    places: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list)
    swapped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    @property
    def stream_rows(self) -> int | None:
        """Rows of the residual stream as a matrix: batch times tokens."""
        return None if self.rows is None or self.tokens is None else self.rows * self.tokens


def capability_of(arch: str) -> int:
    """90 for ``sm90``; 0 for ``cpu``."""
    number = arch.removeprefix("sm")
    return int(number) if number.isdecimal() else 0


def class_path(module: object) -> str:
    """The full name of a module's class: this package compares names of other libraries' classes, and imports none of them."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def unknown(module: object) -> UnknownBlockError:
    """The error for a module that is not known."""
    return UnknownBlockError(f"no fused module is known for {class_path(module)}: use native kernels for this tower")
