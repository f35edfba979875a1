"""The borders between the packages, and what a machine that only serves must not need."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_order import LONGEST

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "torchvision",
    "open_clip",
    "transformers",
    "timm",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "skimage",
    "sklearn",
}
# Package to the packages of ours that it may import; `engines` may import none of HEAVY either.
ALLOWED = {"engines": {"engines"}, "exporter": {"engines", "exporter", "kernels"}, "kernels": {"kernels"}}
OURS = {"engines", "exporter", "kernels", "benchmarks", "tests"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Top-level names of every module imported anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_keep_their_borders(package: str) -> None:
    for path in modules(package):
        crossed = (set(imports(path)) & OURS) - ALLOWED[package]
        assert not crossed, f"{path.relative_to(ROOT)} imports {crossed}"


# The runtime of AOTInductor's packages is PyTorch's own: it may import it when such an engine is opened, and nothing else may.
NEEDS_TORCH = {"run_aotinductor.py"}


def test_serving_code_never_names_heavy_libraries() -> None:
    for path in modules("engines"):
        allowed = {"torch"} if path.name in NEEDS_TORCH else set()
        assert not set(imports(path)) & (HEAVY - allowed), path


def test_kernels_import_triton_only_to_launch() -> None:
    """`import kernels` and every op work without a GPU and without Triton; the jitted kernels are modules of their own."""
    for path in modules("kernels"):
        if not path.name.startswith("triton_"):
            top = [
                node
                for node in ast.parse(path.read_text(encoding="utf-8")).body
                if isinstance(node, (ast.Import, ast.ImportFrom))
            ]
            names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
            assert not {name for name in names if name.split(".")[0] == "triton" or ".triton_" in name}, path


def test_importing_engines_is_light() -> None:
    names = ", ".join(f"engines.{path.stem}" for path in modules("engines") if not path.stem.startswith("__"))
    code = f"import engines, {names}, sys\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & (HEAVY | {"onnxruntime", "openvino", "pyarrow", "exporter", "benchmarks"})


def test_a_serving_environment_is_enough(demo_bundle: Path, tmp_path: Path) -> None:
    """With every export-time library blocked, the bundle loads, embeds, and the command line verifies it."""
    blocker = (
        "import sys\n"
        f"BLOCKED = {sorted(HEAVY | {'exporter', 'benchmarks', 'safetensors', 'huggingface_hub', 'regex', 'pyarrow'})!r}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in BLOCKED:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    (tmp_path / "serve.py").write_text(
        blocker + "import numpy as np, engines\nfrom engines.__main__ import main\n"
        f"with engines.load({str(demo_bundle)!r}) as clip:\n"
        "    image = np.zeros((90, 70, 3), np.uint8)\n"
        "    print(clip.encode_image([image]).shape, clip.encode_text(['a red circle']).shape)\n"
        f"sys.exit(main(['verify', {str(demo_bundle)!r}]))\n"
    )
    ran = subprocess.run([sys.executable, str(tmp_path / "serve.py")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "verified" in ran.stdout


@pytest.mark.parametrize("package", ["exporter", "engines", "kernels", "benchmarks"])
def test_modules_are_short_and_say_what_they_are(package: str) -> None:
    for path in modules(package):
        text = path.read_text(encoding="utf-8")
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), path
        lines = len(text.splitlines())
        assert lines <= (420 if path.name == "pipeline.py" else 300), f"{path.relative_to(ROOT)} has {lines} lines"


def test_nothing_imports_benchmarks() -> None:
    for package in ("engines", "exporter", "kernels"):
        assert not any("benchmarks" in imports(path) for path in modules(package))


def test_help_needs_nothing() -> None:
    for package in ("exporter", "engines"):
        code = (
            f"import sys, runpy; sys.argv = [{package!r}, '--help']\n"
            f"try: runpy.run_module({package!r}, run_name='__main__')\n"
            "except SystemExit as stop: assert not stop.code\n"
            f"assert not {HEAVY!r} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_the_files_that_come_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / f"{name}.py").is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)
