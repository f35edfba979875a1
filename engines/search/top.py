"""The k best rows for each query, found exactly by blocks of matrix products in bounded memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.search.half import subnormals_work, widened

_COMPARED = (
    512  # rows that are converted to float32 at once: 1 MB with 512 dimensions, which stay in a processor's cache
)
_RESCORED = 1024  # rows that are multiplied in float64 at once: 4 MB with 512 dimensions

# Up to so many queries, a product is limited by memory and not by arithmetic: NumPy's own loop is as fast as BLAS, and runs in the
# caller's thread. BLAS starts threads of its own for each product, which wait for each other where other programs use the cores.
_FEW = 8
_PRODUCT = threading.Lock()


class TopK:
    """The k best rows so far, for each of Q queries. Several threads may add blocks.

    A row's score is its inner product with the query in float64, summed in one fixed order, so that equal rows have equal scores
    wherever they stand; of equal scores the lower position comes first. The float32 matrix product of a block only selects: a row
    is left out if its product is below the k-th best score by more than the largest rounding error of a float32 inner product
    (N. J. Higham, Accuracy and Stability of Numerical Algorithms, chapter 3: at most D u |x| |q|, to first order, in any order of
    summation, u = 2**-24). So the result depends neither on blocks, nor on threads, nor on the BLAS library.
    """

    def __init__(self, queries: npt.NDArray[np.float32], k: int) -> None:
        """Begin without rows.

        Args:
            queries: (Q, D) float32.
            k: number of rows for each query; 1 or more.
        """
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._exact = self._queries.astype(np.float64)
        self._k = k
        # Rows have unit length up to the rounding of their type; twice that leaves room for terms of second order.
        self._margin = 2.0 * queries.shape[1] * 2.0**-24 * np.linalg.norm(self._exact, axis=1)
        self._limits = np.full(len(queries), -np.inf)
        self._scores = [np.empty(0) for _ in queries]
        self._positions = [np.empty(0, np.int64) for _ in queries]
        self._is_quick = subnormals_work()
        self._lock = threading.Lock()
        self.rows = 0

    def add(self, vectors: npt.NDArray[Any], positions: npt.NDArray[np.int64]) -> None:
        """Compare a block with the queries.

        Args:
            vectors: (n, D) float16 or float32, of unit length.
            positions: (n,) int64, different for all rows that are ever added.

        Raises:
            ValueError: a vector has NaN or an infinite number.
        """
        for start in range(0, len(vectors), _COMPARED):
            self._compare(vectors[start : start + _COMPARED], positions[start : start + _COMPARED])
        with self._lock:
            self.rows += len(vectors)

    def result(self) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
        """Scores (up to k) and positions for each query, the best first."""
        return list(zip(self._scores, self._positions, strict=True))

    def _compare(self, vectors: npt.NDArray[Any], positions: npt.NDArray[np.int64]) -> None:
        quick = self._is_quick and vectors.dtype == np.float16
        floats = widened(vectors) if quick else vectors.astype(np.float32, copy=False)
        if len(self._queries) <= _FEW:
            products = np.einsum("qd,nd->qn", self._queries, floats)
        else:
            with _PRODUCT:
                products = self._queries @ floats.T
        # A number that is infinite or NaN makes the whole product so: 0 times infinity is NaN, too.
        if not np.isfinite(products).all():
            raise ValueError("an embedding has a number that is not finite")
        for query, row in enumerate(products):
            picks = np.flatnonzero(row >= self._limits[query])
            if len(picks) > self._k:
                least = np.partition(row[picks], len(picks) - self._k)[len(picks) - self._k]
                picks = picks[row[picks] >= np.float64(least) - 2 * self._margin[query]]
            if len(picks):
                self._merge(query, self._rescore(query, vectors, picks), positions[picks])

    def _rescore(self, query: int, vectors: npt.NDArray[Any], picks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        pieces = (vectors[picks[i : i + _RESCORED]] for i in range(0, len(picks), _RESCORED))
        return np.concatenate([(piece * self._exact[query]).sum(axis=1) for piece in pieces])

    def _merge(self, query: int, scores: npt.NDArray[np.float64], positions: npt.NDArray[np.int64]) -> None:
        with self._lock:
            scores = np.concatenate((self._scores[query], scores))
            positions = np.concatenate((self._positions[query], positions))
            best = np.lexsort((positions, -scores))[: self._k]
            self._scores[query], self._positions[query] = scores[best], positions[best]
            if len(best) == self._k:
                self._limits[query] = scores[best[-1]] - self._margin[query]
