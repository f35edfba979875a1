"""Timing of calls on their device."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernel_timing import device_time

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no NVIDIA GPU here")]


def test_every_call_has_its_rounds_and_its_turn() -> None:
    order: list[str] = []
    calls = {"first": lambda: order.append("a"), "second": lambda: order.append("b")}
    seconds, how, problems = device_time.measure(calls, "cpu", rounds=4, round_seconds=0.0)
    assert {name: len(taken) for name, taken in seconds.items()} == {"first": 4, "second": 4}
    assert how == {"first": "host", "second": "host"}
    assert not problems
    assert "".join(order)[-8:] == "abbaabba"  # one call a round; who begins rotates


def test_what_fails_says_why_and_the_rest_goes_on() -> None:
    def fails() -> None:
        raise RuntimeError("no kernel\nfor this")

    seconds, _, problems = device_time.measure({"bad": fails, "good": lambda: None}, "cpu", 2, 1e-4)
    assert set(seconds) == {"good"}
    assert problems == {"bad": device_time.Problem("no kernel for this", refused=False)}


class TestOnAGpu:
    pytestmark = on_gpu

    def test_a_graph_leaves_out_what_python_takes(self) -> None:
        import time

        x = torch.randn(512, 512, device="cuda")

        def slow_on_the_host() -> torch.Tensor:
            time.sleep(0.002)
            return x @ x

        timed = device_time.prepare(slow_on_the_host, "cuda")
        assert timed.how == "graph"
        assert 0 < timed.round() < 0.001

    def test_what_cannot_be_recorded_is_profiled(self) -> None:
        x = torch.randn(512, 512, device="cuda")
        timed = device_time.prepare(lambda: float((x @ x).sum()), "cuda")
        assert timed.how == "profiler"
        assert timed.round() > 0

    def test_kernels_are_compiled_ahead_and_nothing_is_launched(self) -> None:
        pytest.importorskip("triton")
        from kernels import triton_linear_gelu
        from kernels.ahead import compile_ahead

        x, weight = (torch.randn(*shape, device="cuda", dtype=torch.float16) for shape in ((2048, 72), (136, 72)))
        tuned = triton_linear_gelu._TUNED["half", False]
        device = torch.cuda.current_device()
        before, chosen = len(tuned.fn.device_caches[device][0]), dict(tuned.cache)
        compile_ahead([lambda: triton_linear_gelu.launch(x, weight, None)], 4)
        assert len(tuned.fn.device_caches[device][0]) >= before + len(tuned.configs)
        assert tuned.cache == chosen  # none was timed
