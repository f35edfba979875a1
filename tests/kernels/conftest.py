"""Fixtures of the kernels' tests."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest


@pytest.fixture(scope="session")
def interpret() -> Iterator[Callable[..., Any]]:
    """Call a function in a process where Triton interprets: ``interpret(function, *args)`` returns or raises what it does.

    Triton decides when it is imported, and every later ``@triton.jit`` of that process is bound to it. Tests of several files
    share a process, and those that compile ahead of time need the real compiler, so interpretation happens in a process of its
    own, one for all test files. The function must be one that pickle can name: at the top level of a module.
    """
    pytest.importorskip("triton")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before = os.environ.get("TRITON_INTERPRET")
        os.environ["TRITON_INTERPRET"] = "1"
        try:
            # Once this has run the process exists, and Triton has decided.
            pool.submit(exec, "from mended_interpreter import mend_interpreter; mend_interpreter()").result()
        finally:
            if before is None:
                del os.environ["TRITON_INTERPRET"]
            else:
                os.environ["TRITON_INTERPRET"] = before
        yield lambda function, *args: pool.submit(function, *args).result()
