"""The outcome of building engines: the built engines, and those that could not be built (`exporter.errors.LeftOut`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.manifest import Engine, TowerName
from exporter.errors import LeftOut


@dataclass(frozen=True)
class Built:
    """The outcome for engines of one kind or of several.

    Attributes:
        engines: the built engines' entries in the manifest; their files are in the bundle's folder.
        left_out: the engines that could not be built; they have no files.
    """

    engines: tuple[Engine, ...]
    left_out: tuple[LeftOut, ...] = ()


def missed(left_out: Sequence[LeftOut], built: Sequence[Engine], towers: Sequence[TowerName]) -> tuple[LeftOut, ...]:
    """Select the missing engines that make a bundle incomplete: those of named kinds, and those of towers without any engine.

    Args:
        left_out: all engines that could not be built.
        built: the bundle's engines.
        towers: the bundle's towers.
    """
    served = {engine.tower for engine in built}
    return tuple(
        item for item in left_out if item.named or not served.issuperset((item.tower,) if item.tower else towers)
    )
