"""PyTorch's compiler caches and this package: edited kernels are compiled anew, by a process that starts after the edit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import torch
from kernels.bias_gelu import bias_gelu
compiled = torch.compile(lambda x, b: bias_gelu(x, b, "quick"), fullgraph=True)
x, b = torch.ones(4, 8), torch.ones(8)
with torch.no_grad():
    print(compiled(x, b)[0, 0].item(), bias_gelu(x, b, "quick")[0, 0].item())
"""


@pytest.mark.long
def test_an_edited_op_is_compiled_anew(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        # Not part of this test: the processor's vector instructions, and headers that are compiled in advance.
        "TORCHINDUCTOR_VEC_ISA_OK": "0",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        "HOME": str(tmp_path),
    }

    def run() -> list[float]:
        command = [sys.executable, "-c", SCRIPT]
        ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return [float(value) for value in ran.stdout.split()]

    compiled, eager = run()
    assert compiled == eager
    reference = tmp_path / "kernels" / "reference.py"
    text = reference.read_text(encoding="utf-8")
    reference.write_text(text.replace("torch.sigmoid(1.702 * x)", "torch.sigmoid(1.702 * x) + 3.0"), encoding="utf-8")
    compiled, changed = run()
    assert changed != eager
    assert compiled == changed
