"""Fixtures of the kernels' tests."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import Any

import pytest


@pytest.fixture(scope="module")
def interpret() -> Iterator[Callable[..., Any]]:
    """Call a function in a process where Triton interprets: ``interpret(function, *args)`` returns or raises what it does.

    Triton decides when it is imported, and every later ``@triton.jit`` of that process is bound to it. Tests of several files
    share a process, and those that compile ahead of time need the real compiler, so interpretation happens in a process of its
    own, one for each test file. The function must be one that pickle can name: at the top level of a module.
    """
    pytest.importorskip("triton")
    numpy, triton = (tuple(map(int, version(name).split(".")[:2])) for name in ("numpy", "triton"))
    if triton <= (3, 6) and numpy >= (2, 4):
        # A loop to a bound of run time: "only 0-dimensional arrays can be converted to Python scalars".
        pytest.skip(f"Triton {version('triton')} does not interpret with NumPy {version('numpy')}; install numpy<2.4")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before = os.environ.get("TRITON_INTERPRET")
        os.environ["TRITON_INTERPRET"] = "1"
        try:
            pool.submit(exec, "import triton.language").result()  # the process exists, and Triton has decided
        finally:
            if before is None:
                del os.environ["TRITON_INTERPRET"]
            else:
                os.environ["TRITON_INTERPRET"] = before
        yield lambda function, *args: pool.submit(function, *args).result()
