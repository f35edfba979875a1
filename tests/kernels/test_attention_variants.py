"""Attention's variants by name: which tiles they are, what refuses them, and that none that is offered spills registers."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kernels import launchers
from kernels.attention import attention, packed_attention
from kernels.attention_tiles import Tiles, tiles_for
from kernels.attention_variants import DEFAULT, VENDORS, candidates, packed_candidates, tiles_of

QKV = torch.randn(2, 9, 3 * 32, generator=torch.Generator().manual_seed(0))
STARTS = torch.tensor([0, 4, 9], dtype=torch.int32)
# Towers: ViT-L-14, ViT-H-14, ViT-L-14-336, text of any length, packed text.
SHAPES = [(257, 64, "plain"), (257, 80, "plain"), (577, 64, "plain"), (None, 64, "causal"), (77, 64, "packed")]


def test_names_are_tiles() -> None:
    assert tiles_of(DEFAULT, 257, 64, 2) == tiles_for(257, 64, 2)
    assert tiles_of("loop-128x64-w8-s3", None, 80, 2) == Tiles(False, 128, (64, 0), (64, 16), 8, 3)
    assert tiles_of("single-64-w8", 257, 64, 2) == Tiles(True, 64, (256, 16), (64, 0), 8, 1)
    assert tiles_of("single-32-w8", 257, 80, 2).head == (128, 0)


@pytest.mark.parametrize("length", [None, 577])
def test_all_keys_in_one_tile_need_a_known_number(length: int | None) -> None:
    with pytest.raises(ValueError, match=r"holds all keys in one tile.*it is for up to 272 keys"):
        tiles_of("single-64-w8", length, 64, 2)


@pytest.mark.parametrize("variant", ["fast", "loop-128x64", "single-64", ""])
def test_other_names_are_refused(variant: str) -> None:
    with pytest.raises(ValueError, match=f"variant='{variant}' of attention is none of triton, flash, cudnn"):
        attention(QKV, 2, variant=variant)
    with pytest.raises(ValueError, match="is none of triton"):
        packed_attention(QKV.flatten(0, 1)[:9], 2, STARTS, 5, variant=variant)


@pytest.mark.parametrize("variant", VENDORS)
def test_vendors_take_neither_masks_nor_rotations(variant: str) -> None:
    with pytest.raises(ValueError, match=f"'{variant}' of attention takes no mask of padding: use 'triton'"):
        attention(QKV, 2, key_padding=torch.ones(2, 9, dtype=torch.bool), variant=variant)
    table = torch.ones(9, 16)
    with pytest.raises(ValueError, match=f"'{variant}' of attention takes no rotary tables: use 'triton'"):
        attention(QKV, 2, rotary_cos=table, rotary_sin=table, variant=variant)


def test_cudnn_takes_no_packed_sequences() -> None:
    with pytest.raises(ValueError, match="'cudnn' takes no packed sequences"):
        packed_attention(QKV.flatten(0, 1)[:9], 2, STARTS, 5, variant="cudnn")
    assert "cudnn" in candidates(77, 64, 90)
    assert "cudnn" not in packed_candidates(77, 64, 90)


@pytest.mark.parametrize("variant", ["flash", "cudnn", "loop-64x64-w4-s2"])
def test_on_a_cpu_every_variant_is_the_reference(variant: str) -> None:
    torch.testing.assert_close(attention(QKV, 2, True, variant=variant), attention(QKV, 2, True), rtol=0, atol=0)


def test_what_may_be_chosen() -> None:
    assert candidates(257, 64, 90, masked=True) == candidates(257, 64, 90, rotated=True) == (DEFAULT,)
    assert not any(name.startswith("single") for name in (*candidates(None, 64, 90), *candidates(577, 64, 90)))
    assert set(VENDORS) <= set(candidates(None, 64, 90))
    assert not set(VENDORS) & set(candidates(50, 36, 90))  # heads of vendors' kernels are multiples of 8
    for length, head_size, capability in ((257, 64, 80), (257, 64, 90), (50, 64, 80), (257, 112, 100)):
        for name in set(candidates(length, head_size, capability)) - set(VENDORS):
            tiles_of(name, length, head_size, 2, capability=capability)


@pytest.mark.parametrize(
    ("variant", "call"),
    [("flash", "_scaled_dot_product_flash_attention"), ("cudnn", "_scaled_dot_product_cudnn_attention")],
)
def test_vendors_read_views_of_the_projection(variant: str, call: str) -> None:
    """Traced for a GPU that is not there: one call on q, k and v where they lie, and no copy of any of them."""
    with FakeTensorMode():
        qkv = torch.empty(4, 257, 3 * 1024, device="cuda", dtype=torch.float16)
        graph = make_fx(lambda x: launchers.attention(x, 16, False, None, None, None, None, variant))(qkv).graph
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum(call in target for target in targets) == 1
    assert not [target for target in targets if "clone" in target or "copy" in target or "contiguous" in target]


def test_flash_takes_packed_captions() -> None:
    with FakeTensorMode():
        qkv = torch.empty(60, 3 * 512, device="cuda", dtype=torch.float16)
        starts = torch.empty(5, device="cuda", dtype=torch.int32)
        graph = make_fx(lambda x, s: launchers.packed_attention(x, 8, s, 77, True, None, "flash"))(qkv, starts).graph
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("_flash_attention_forward" in target for target in targets) == 1
    assert not [target for target in targets if "clone" in target or "copy" in target]


def compiled(length: int | None, head_size: int, mode: str, arch: int) -> dict[str, int]:
    """Variant to bytes that it spills on an architecture."""
    pytest.importorskip("triton")
    from kernels.static import compile_static
    from kernels.triton_attention import static_case

    found = {}
    for name in candidates(length, head_size, arch):
        if name not in VENDORS:
            found[name] = compile_static(static_case(length, head_size, mode, "fp16", arch, name), arch).spills
    return found


@pytest.mark.parametrize("arch", [80, 90])
def test_no_candidate_of_vit_l_14_spills(arch: int) -> None:
    spills = compiled(*SHAPES[0], arch)
    assert len(spills) > 5
    assert not {name: size for name, size in spills.items() if size}


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_no_candidate_spills(shape: tuple[int | None, int, str], arch: int) -> None:
    assert not {name: size for name, size in compiled(*shape, arch).items() if size}
