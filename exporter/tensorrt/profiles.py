"""Optimization profiles of a tower: the ranges of shapes that an engine's kernels are chosen for."""

from __future__ import annotations

from collections.abc import Sequence

from engines.manifest import BatchProfile, Profile, Range, Tower
from exporter.errors import ExportError

# Captions of real data have 8 to 25 tokens; kernels are chosen for one in the middle.
_CAPTION_TOKENS = 16
_MOST_ELEMENTS = (1 << 31) - 1  # of one tensor, by TensorRT's own limit


def make_profiles(tower: Tower, batches: Sequence[Range]) -> tuple[Profile, ...]:
    """One profile for each range of batch sizes.

    Args:
        tower: its input's shape says what else is dynamic.
        batches: ordered ranges.

    Raises:
        ExportError: a batch is larger than one tensor may be.
    """
    length = None
    if tower.length is not None and tower.length.keep != "fixed":
        low, high = tower.length.min, tower.length.max
        length = Range(min=low, opt=min(max(_CAPTION_TOKENS, low), high), max=high)
    profiles = tuple(Profile(batch=batch, length=length) for batch in batches)
    for profile in profiles:
        elements = 1
        for size in input_shapes(tower, profile)[2]:
            elements *= size
        if elements > _MOST_ELEMENTS:
            most = _MOST_ELEMENTS * profile.batch.max // elements
            raise ExportError(
                f"batch {profile.batch.max} exceeds what one tensor can hold: pass --batch with at most {most}"
            )
    return profiles


def input_shapes(tower: Tower, profile: Profile) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The input's smallest, usual and largest shape."""

    def shape(which: str) -> tuple[int, ...]:
        sizes = []
        for size in tower.input.shape:
            if isinstance(size, int):
                sizes.append(size)
            elif size == "L":
                assert profile.length is not None
                sizes.append(getattr(profile.length, which))
            else:
                sizes.append(getattr(profile.batch, which))
        return tuple(sizes)

    return shape("min"), shape("opt"), shape("max")


def whole_range(profiles: Sequence[Profile]) -> BatchProfile:
    """The batch sizes that the profiles take together; gaps between them are filled by padding."""
    return BatchProfile(
        min=min(profile.batch.min for profile in profiles),
        opt=max(profile.batch.opt for profile in profiles),
        max=max(profile.batch.max for profile in profiles),
    )
