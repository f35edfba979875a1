"""What building engines gives: those that are there, and those that were to be built and are not, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.manifest import Engine, TowerName


@dataclass(frozen=True)
class LeftOut:
    """An engine that a bundle lacks although it was to be built.

    Attributes:
        kind: of the engine, such as ``aotinductor``.
        why: one sentence with the cause and, where there is one, the remedy.
        tower: whose engine it is; None: that of every tower.
        device: that it was for, such as ``sm80`` or ``cpu``; None: any.
        named: the user asked for this kind by its name; ``auto`` may have chosen others.
    """

    kind: str
    why: str
    tower: TowerName | None = None
    device: str | None = None
    named: bool = True

    def __str__(self) -> str:
        """``aotinductor cpu of the text tower``."""
        kind = f"{self.kind} {self.device}" if self.device else self.kind
        return f"{kind} of the {self.tower} tower" if self.tower else kind


@dataclass(frozen=True)
class Built:
    """Engines of one kind or of several.

    Attributes:
        engines: their entries in the manifest; their files are in the bundle's folder.
        left_out: what could not be built; no file of it is there.
    """

    engines: tuple[Engine, ...]
    left_out: tuple[LeftOut, ...] = ()


def missed(left_out: Sequence[LeftOut], built: Sequence[Engine], towers: Sequence[TowerName]) -> tuple[LeftOut, ...]:
    """What makes a bundle less than what was asked for: kinds that were named, and the only engine of a tower.

    Args:
        left_out: all that could not be built.
        built: the bundle's engines.
        towers: of the bundle.
    """
    served = {engine.tower for engine in built}
    return tuple(
        item for item in left_out if item.named or not served.issuperset((item.tower,) if item.tower else towers)
    )
