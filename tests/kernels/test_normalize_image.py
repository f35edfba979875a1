"""`normalize_image`: pixels to patches, and the patch embedding that is then one matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rowwise_cases import DTYPES, MEAN, STD, check_all, pixels
from torch.nn import functional as F

from kernels import reference
from kernels.normalize_image import normalize_image

# Pictures, rows and columns of pixels, patch. The third fills no whole number of patches, the fourth has one patch.
PICTURES = ((1, 32, 64, 32), (3, 48, 32, 16), (2, 45, 33, 14), (1, 14, 14, 14))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "height", "width", "patch"), PICTURES)
def test_in_the_interpreter(
    interpret: Callable[..., Any], n: int, height: int, width: int, patch: int, dtype: torch.dtype
) -> None:
    picture = pixels(n, height, width)
    interpret(check_all, normalize_image, reference.normalize_image, picture, MEAN, STD, patch, dtype)


def test_a_view_that_is_not_contiguous(interpret: Callable[..., Any]) -> None:
    view = pixels(2, 40, 40)[:, 4:36, 8:].transpose(1, 2)
    interpret(check_all, normalize_image, reference.normalize_image, view, MEAN, STD, 16, torch.float16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "patch"), [(224, 32), (224, 16), (224, 14), (336, 14), (50, 14)])
def test_on_the_gpu(size: int, patch: int, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    check_all(normalize_image, reference.normalize_image, pixels(3, size, size), MEAN, STD, patch, dtype, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "patch"), [(224, 32), (224, 16), (224, 14), (336, 14)])
def test_whole_pictures_in_the_interpreter(
    interpret: Callable[..., Any], size: int, patch: int, dtype: torch.dtype
) -> None:
    interpret(check_all, normalize_image, reference.normalize_image, pixels(2, size, size), MEAN, STD, patch, dtype)


@pytest.mark.parametrize("patch", [14, 16, 32])
def test_a_matrix_product_of_patches_is_conv1_of_normalized_pixels(interpret: Callable[..., Any], patch: int) -> None:
    picture = pixels(2, 2 * patch + 3, 3 * patch)
    weight = torch.randn((24, 3, patch, patch), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD))
    normalized = ((picture.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    expected = F.conv2d(normalized, weight, stride=patch).flatten(2).transpose(1, 2)
    for impl in ("native", "triton"):
        if impl == "triton":
            patches = interpret(normalize_image, picture, MEAN, STD, patch, torch.float32, impl)
        else:
            patches = normalize_image(picture, MEAN, STD, patch, torch.float32, impl)
        torch.testing.assert_close(patches.double() @ weight.flatten(1).T, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "mean", "match"),
    [
        (torch.zeros(1, 16, 16, 3), MEAN, "torch.float32"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), MEAN, "(1, 3, 16, 16)"),
        (torch.zeros(16, 16, 3, dtype=torch.uint8), MEAN, "expected torch.uint8"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.uint8), (0.5,), "1 and 3 values"),
    ],
)
def test_anything_but_rgb_bytes_is_refused(wrong: torch.Tensor, mean: tuple[float, ...], match: str) -> None:
    with pytest.raises(ValueError) as refusal:
        normalize_image(wrong, mean, STD, 16, torch.float32)
    assert match in str(refusal.value)
