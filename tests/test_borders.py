"""The borders between the packages, and what a machine that only serves must not need."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from architecture import PACKAGES, ROOMS
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


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def modules(package: str) -> list[Path]:
    """The files of a package; ``engines/cpp`` is a project of its own, whose Python programs only build and check it."""
    return sorted(path for path in (ROOT / package).rglob("*.py") if "cpp" not in path.relative_to(ROOT).parts)


def dotted(path: Path) -> str:
    """The name by which a module is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Top-level names of every module imported anywhere in a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_keep_their_borders(package: str) -> None:
    for path in modules(package):
        crossed = (set(imports(path)) & {*PACKAGES, "tests"}) - {package, *PACKAGES[package].split()}
        assert not crossed, f"{path.relative_to(ROOT)} imports {crossed}"


@functools.cache
def imported_modules(path: Path, known: frozenset[str]) -> set[str]:
    """Those of `known` that a file imports anywhere, also for type checkers; a package counts where a name of it is imported."""
    own, found = dotted(path), set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path.relative_to(ROOT)} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found |= {full} if full in known else {node.module} & known
    return found - {own}


def room(module: str) -> str:
    """``exporter.gate.tasks`` is in ``gate``, ``exporter.pipeline`` is a room by itself, ``exporter`` is ``__init__``."""
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_in_one_direction(package: str) -> None:
    """`architecture.ROOMS`, which has every room; what it allows points upwards, and each of its arrows is used."""
    table = {name: set(allowed.split()) for name, allowed in ROOMS[package].items()}
    above: set[str] = set()
    for name, allowed in table.items():
        if allowed == {"*"}:
            table[name] = set(above)
        assert table[name] <= above, f"{package}.{name} may not import what stands below it in the table"
        above.add(name)
    own = {dotted(path): path for path in modules(package)}
    assert {room(module) for module in own} == set(table)
    used: dict[str, set[str]] = {name: set() for name in table}
    for module, path in own.items():
        arrows = {room(other) for other in imported_modules(path, frozenset(own))} - {room(module)}
        crossed = arrows - table[room(module)]
        assert not crossed, (
            f"{path.relative_to(ROOT)} imports {package}.{' and '.join(crossed)}: see tests/architecture.py"
        )
        used[room(module)] |= arrows
    for name, allowed in ROOMS[package].items():
        unused = table[name] - used[name] if allowed != "*" else set()
        assert not unused, f"{package}.{name} never imports {unused}: take that out of tests/architecture.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_in_a_circle(package: str) -> None:
    """Inside rooms, too, and with what only type checkers import."""
    own = {dotted(path): path for path in modules(package)}
    graph = {module: imported_modules(path, frozenset(own)) for module, path in own.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_are_rooms(package: str) -> None:
    """At most two levels of folders and 16 files in each; kernels is flat, because its prefixes work as rooms."""
    counts = Counter(path.parent for path in modules(package))
    assert all(len(folder.relative_to(ROOT).parts) <= 2 for folder in counts)
    if package != "kernels":
        assert max(counts.values()) <= 16, counts.most_common(1)


# The runtime of AOTInductor's packages is PyTorch's own: it may import it when such an engine is opened. The module for
# sentence-transformers is a module of PyTorch; importing `engines` does not import it. Nothing else may.
NEEDS_TORCH = {"runtimes/aotinductor.py", "sentence_transformers.py"}


def test_serving_code_never_names_heavy_libraries() -> None:
    for path in modules("engines"):
        allowed = {"torch"} if path.relative_to(ROOT / "engines").as_posix() in NEEDS_TORCH else set()
        assert not set(imports(path)) & (HEAVY - allowed), path


def test_kernels_import_triton_only_to_launch() -> None:
    """`import kernels` and every op work without a GPU and without Triton; the jitted kernels are modules of their own."""
    for path in modules("kernels"):
        if not path.name.startswith("triton_"):
            top = [node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
            names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
            assert not {name for name in names if name.split(".")[0] == "triton" or ".triton_" in name}, path


def test_importing_engines_is_light() -> None:
    light = (path for path in modules("engines") if path.stem not in ("__main__", "sentence_transformers"))
    names = ", ".join(map(dotted, light))
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
            assert ast.get_docstring(tree(path)), path
        lines = len(text.splitlines())
        assert lines <= (360 if path.name == "pipeline.py" else 300), f"{path.relative_to(ROOT)} has {lines} lines"


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
