"""The number of ids that the text tower needs of each row, and batches of rows with little padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.manifest import TextLength


def needed_lengths(ids: npt.NDArray[np.integer], length: TextLength, pad_id: int) -> npt.NDArray[np.int64]:
    """The number of ids that each row needs, between ``length.min`` and ``length.max``.

    Args:
        ids: (N, L) token ids.
        length: the tower's rule.
        pad_id: the id that fills rows up.

    Returns:
        (N,) int64, never more than L.
    """
    count, width = ids.shape
    if length.keep == "fixed":
        return np.full(count, min(length.max, width), dtype=np.int64)
    if length.keep == "end":
        used = ids.argmax(axis=1) + 1
    else:
        used = width - np.argmax((ids != pad_id)[:, ::-1], axis=1)
        used = np.where((ids != pad_id).any(axis=1), used, 0)
    return np.clip(used + length.extra, length.min, min(length.max, width)).astype(np.int64)


def plan_batches(lengths: npt.NDArray[np.integer], max_batch: int) -> list[npt.NDArray[np.int64]]:
    """Row indices of each batch: sorted by length, cut into batches of at most `max_batch` rows.

    A batch is as long as its longest row, so a batch is also cut where its rows would be padded by more than a quarter, because two
    runs then cost less than the padding.

    Args:
        lengths: (N,) lengths of the rows.
        max_batch: largest number of rows in a batch, at least 1.

    Returns:
        Index arrays that together hold every row once.
    """
    order = np.argsort(lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        # The batch takes rows up to a quarter longer than its shortest row, or up to 4 ids longer where that is more.
        longest = max(int(lengths[order[start]] * 1.25), int(lengths[order[start]]) + 4)
        end = start
        while end < len(order) and end - start < max_batch and lengths[order[end]] <= longest:
            end += 1
        batches.append(order[start:end].astype(np.int64))
        start = end
    return batches
