"""What attention's kernels need of GPUs that are not here, in the shapes of ViT-L-14 and its text tower, and by random choice."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("triton")

from kernels.static import StaticCase, compile_static, occupancy
from kernels.triton_attention import static_case, static_cases

ARCHS = (80, 90, 100)
MODES = ("plain", "causal", "padding", "causal-padding", "rotary", "packed")


def assert_lean(length: int | None, head_size: int, mode: str, dtype: str, arch: int) -> None:
    report = compile_static(static_case(length, head_size, mode, dtype, arch), arch)
    assert not report.spills, f"L={length} D={head_size} {mode} {dtype} sm_{arch}: {report}"
    assert report.occupancy > 0


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("length", "mode"), [(257, "plain"), (257, "rotary"), (77, "causal"), (577, "plain")])
def test_vit_l_14_does_not_spill(length: int, mode: str, arch: int) -> None:
    assert_lean(length, 64, mode, "fp16", arch)


@pytest.mark.parametrize(("length", "mode"), [(197, "plain"), (257, "plain"), (257, "causal-padding"), (77, "causal")])
def test_consumer_blackwell_does_not_spill(length: int, mode: str) -> None:
    """It has neither Hopper's products of 64 rows nor its shared memory: tiles chosen for sm_90 spilled there."""
    assert_lean(length, 64, mode, "fp16", 120)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("mode", MODES)
def test_no_choice_of_tiles_spills(mode: str, arch: int) -> None:
    """Lengths and head sizes that no tower has: a tile chosen for one shape serves all those around it."""
    chance = random.Random(f"{mode} {arch}")
    for _ in range(12):
        length = chance.choice([None, 16, 50, 77, 96, 128, 160, 197, 257, 272, 577])
        head_size = chance.choice([16, 32, 48, 64, 72, 80, 88, 96, 104, 112, 128])
        assert_lean(length, head_size, mode, chance.choice(["fp16", "bf16", "fp32"]), arch)


def test_a_case_stands_for_other_tiles_where_a_launch_picks_them() -> None:
    case = next(case for case in static_cases() if case.label == "L=257 D=64 plain fp16")
    assert case.constants["BLOCK_M"] == 64
    assert case.by_arch[80].constants["BLOCK_M"] == 32


def test_what_cannot_be_compiled_is_named() -> None:
    case = static_cases()[0]
    with pytest.raises(ValueError, match=r"sm_80.*sm_120, not for sm_75"):
        compile_static(case, 75)
    lacking = StaticCase("lacking", case.kernel, {}, {}, 4, 1)
    with pytest.raises(ValueError, match="length"):
        compile_static(lacking, 90)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        compile_static(StaticCase("plain function", len, {}, {}, 4, 1), 90)


def test_occupancy_is_what_the_calculator_says() -> None:
    assert occupancy(90, registers=32, shared_bytes=0, num_warps=4) == 1.0
    assert occupancy(90, registers=255, shared_bytes=0, num_warps=8) == 8 / 64
    assert occupancy(80, registers=64, shared_bytes=100 * 1024, num_warps=4) == 4 / 64
    assert occupancy(80, registers=64, shared_bytes=164 * 1024, num_warps=4) == 0
    with pytest.raises(ValueError, match="80, 86, 89, 90, 100, 120"):
        occupancy(75, 32, 0, 4)
