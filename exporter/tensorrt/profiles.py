"""Optimization profiles of a tower, which are the ranges of shapes for which an engine's kernels are chosen."""

from __future__ import annotations

from collections.abc import Sequence

from engines.manifest import BatchProfile, Profile, Range, Tower
from exporter.errors import ExportError

# Captions of real data have 8 to 25 tokens; kernels are chosen for a length in the middle.
_CAPTION_TOKENS = 16
_MOST_ELEMENTS = (1 << 31) - 1  # TensorRT's limit of the elements of one tensor


def make_profiles(tower: Tower, batches: Sequence[Range]) -> tuple[Profile, ...]:
    """Make one profile for each range of batch sizes.

    Args:
        tower: the manifest's entry of the tower, whose length rule gives the range of lengths.
        batches: the ranges, each with min, opt and max in order.

    Raises:
        ExportError: a tensor of a batch would have more elements than TensorRT allows.
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
    """Compute the input's smallest, usual and largest shape."""

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
    """Compute the range of batch sizes that the profiles take together; padding fills the gaps between them."""
    return BatchProfile(
        min=min(profile.batch.min for profile in profiles),
        opt=max(profile.batch.opt for profile in profiles),
        max=max(profile.batch.max for profile in profiles),
    )
