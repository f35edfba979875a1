"""The package as a whole: importing it is light, its namesake is refused, and every op is registered the same way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import library, reference


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_needs_neither_torch_nor_triton() -> None:
    ran = python("import sys, kernels\nassert not {'torch', 'triton', 'numpy'} & set(sys.modules)")
    assert ran.returncode == 0, ran.stderr


def test_an_op_works_without_triton() -> None:
    """With Triton hidden the op imports, runs and exports on a CPU, and says what is missing where a kernel is asked for."""
    ran = python(
        "import sys\nsys.modules['triton'] = None\n"
        "import torch\nfrom kernels.attention import attention\n"
        "x = torch.zeros(2, 3, 96)\nprint(attention(x, 2).shape)\n"
        "try: attention(x, 2, impl='triton')\nexcept ValueError as error: print(error)\n"
    )
    assert ran.returncode == 0, ran.stderr
    assert "torch.Size([2, 3, 32])" in ran.stdout
    assert "CUDA tensors only" in ran.stdout


def test_the_namesake_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "kernels-9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 9.9\n")
    ran = python(f"import sys\nsys.path.append({str(tmp_path)!r})\nimport kernels")
    assert ran.returncode == 1
    assert "ImportError: the unrelated distribution 'kernels' 9.9" in ran.stderr
    assert "pip uninstall kernels" in ran.stderr


def test_another_op_takes_a_few_lines() -> None:
    """What `kernels.library` promises in its docstring."""

    def double(x: torch.Tensor, times: int = 1) -> torch.Tensor:
        return x * 2**times

    op = library.register("test_double", double, lambda x, times=1: torch.empty_like(x), "triton_of_no_op:launch")
    x = torch.arange(4.0)
    assert library.call(op, "auto", x, 2).tolist() == [0, 4, 8, 12]
    torch.library.opcheck(op.overload, (x, 3))
    assert torch.compile(lambda x: library.call(op, "auto", x), fullgraph=True, backend="eager")(x).tolist() == [
        0,
        2,
        4,
        6,
    ]


def test_images_become_patches_in_the_order_of_the_convolution() -> None:
    pixels = torch.randint(0, 256, (2, 9, 12, 3), dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    patches = reference.normalize_image(pixels, mean, std, 4, torch.float64)
    conv = torch.nn.Conv2d(3, 5, 4, 4, bias=False).double()
    shift, spread = torch.tensor(mean).double()[:, None, None], torch.tensor(std).double()[:, None, None]
    expected = conv((pixels.permute(0, 3, 1, 2).double() / 255 - shift) / spread).flatten(2).mT
    torch.testing.assert_close(patches @ conv.weight.flatten(1).T, expected, rtol=1e-5, atol=1e-5)


def test_tensors_of_different_dtypes_are_refused() -> None:
    """PyTorch would promote them, and a kernel writes its first input's dtype."""
    from kernels.add_layer_norm import add_layer_norm
    from kernels.bias_gelu import bias_gelu
    from kernels.linear_gelu import linear_gelu

    x, wide = torch.zeros(2, 4, dtype=torch.float16), torch.zeros(4, 4)
    with pytest.raises(ValueError, match=r"bias is torch\.float32 and x is torch\.float16"):
        bias_gelu(x, wide[0])
    with pytest.raises(ValueError, match=r"weight is torch\.float32"):
        linear_gelu(x, wide, None)
    with pytest.raises(ValueError, match=r"residual is torch\.float32"):
        add_layer_norm(x, wide[:2], wide[0].half(), wide[0].half(), 1e-5)
