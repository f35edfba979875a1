"""The plan of a swap, which is complete before any module is replaced, and its report; see `kernels.swap`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

Mode = Literal["auto", "triton", "native"]


class UnknownBlockError(ValueError):
    """A tower has a block that no fused module can replace; nothing was swapped."""


@dataclass(frozen=True)
class SwapReport:
    """The result of a swap.

    Attributes:
        mode: the caller's mode.
        swapped: kernel -> number of its modules in the tower now. A variant's name follows the kernel's: "attention flash".
        kept: kind of module -> number that stays native, because no kernel serves them or native is fastest by the table.
    """

    mode: Mode
    swapped: Mapping[str, int]
    kept: Mapping[str, int]


@dataclass
class Plan:
    """The planned replacements in a tower.

    Attributes:
        choose: function that returns the implementation of an op at a shape, among the allowed ones; see `kernels.choices.choose`.
        capability: the GPU's compute capability: 80, 90, …; 0 is the CPU.
        half: whether the operands have 16 bits.
        rows: the usual batch, or None.
        tokens: number of tokens in a row, or None where it varies.
        measured: whether `choose` decides by measurements; otherwise it takes the first allowed implementation.
        places: module, attribute, and the attribute's new module.
        swapped, kept: counts for the report.
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
        """The number of rows of the residual stream as a matrix: batch times tokens."""
        return None if self.rows is None or self.tokens is None else self.rows * self.tokens


def capability_of(arch: str) -> int:
    """The compute capability of an architecture: 90 for ``sm90``; 0 for ``cpu``."""
    number = arch.removeprefix("sm")
    return int(number) if number.isdecimal() else 0


def class_path(module: object) -> str:
    """The full name of a module's class. Classes are recognized by name, because this package imports none of other packages."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def unknown(module: object) -> UnknownBlockError:
    """The error for a module whose class is not supported."""
    return UnknownBlockError(f"no fused module is known for {class_path(module)}: use native kernels for this tower")
