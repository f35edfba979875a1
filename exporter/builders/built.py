"""The outcome of building engines: the engines that are there, and those that could not be built (`exporter.errors.LeftOut`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.manifest import Engine, TowerName
from exporter.errors import LeftOut


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
