"""Libraries that are installed and broken, each in a process of its own: a reason why not, and no more than that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from broken_libraries import BREAKAGES, add_engines, answer_of, break_library, run_python

pytest.importorskip("openvino")

# A program gets the bundle's folder as B, and `attempt(engine)`: what runs the towers, or the error's class and words.
PROGRAM = """
import logging, engines
logged = []
class Keep(logging.Handler):
    def emit(self, record): logged.append(record.getMessage())
logging.getLogger("engines").addHandler(Keep())
def attempt(engine):
    try:
        with engines.load(B, engine=engine) as clip:
            assert clip.encode_text(["a red circle"]).shape == (1, 64)
            return sorted({ran.split()[0] for ran in clip.engines.values()})
    except engines.errors.EngineError as error:
        return f"{type(error).__name__}: {error}"
"""
INSTALL = {
    "openvino": "pip install 'openclip-engines[openvino]'",
    "onnxruntime": (
        "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'openclip-engines[cpu]', or 'openclip-engines[gpu]' on a "
        "machine with an NVIDIA GPU"
    ),
}
MEND = "mend that or install it anew ({}), and start Python again"

# Both libraries are tried in one way (`engines.process.optional`), so that a few errors of each are enough. The others that are not
# here are raised by other libraries below: an OSError, an AttributeError.
FAST = {
    "openvino": ("raise RuntimeError", "raise SystemExit", "raise SystemError", "import a_part_of_it_that_is_missing"),
    "onnxruntime": ("raise ImportError", "match"),
}
BROKEN = [
    pytest.param(library, code, marks=() if code.startswith(FAST[library]) else pytest.mark.slow)
    for library in ("openvino", "onnxruntime")
    for code in BREAKAGES
]


@pytest.fixture
def both(bundle_copy: Path) -> Path:
    """The demo bundle with openvino engines before its onnxruntime engines."""
    add_engines(bundle_copy, "openvino")
    return bundle_copy


def program(bundle: Path, code: str, first: Path | None = None, **environment: str) -> Any:
    return answer_of(f"B = {str(bundle)!r}\n{PROGRAM}\n{code}", first, **environment)


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can become a user that nobody knows")
def test_openvino_without_a_home_and_a_known_user(both: Path, tmp_path: Path) -> None:
    """The real library, as in a container that is started with any user id: its telemetry looks for the home folder."""
    become = "import os\nos.environ.pop('HOME', None)\nos.setgroups([])\nos.setresuid(12345, 0, 0)\n"
    broken = program(
        both,
        f"{become}\nimport sys\nnamed = attempt('onnxruntime')\nasked = 'openvino' in sys.modules\n"
        "answer([named, asked, attempt('auto'), attempt('openvino'), attempt('openvino'), logged])",
    )
    named, asked, auto, first, second, logged = broken
    if first == ["openvino"]:
        pytest.skip("this OpenVINO needs no home folder")
    assert named == auto == ["onnxruntime"]
    assert not asked
    reason = (
        "OpenVINO is installed and cannot be imported (RuntimeError: Could not determine home directory.): "
        f"{MEND.format(INSTALL['openvino'])}"
    )
    assert (
        first
        == second
        == (f"EngineUnavailableError: no engine of the bundle can run its image tower here (openvino cpu: {reason})")
    )
    assert f"runs on onnxruntime cpu; not on openvino cpu: {reason}" in logged[0]


@pytest.mark.parametrize(("library", "code"), BROKEN)
def test_whatever_an_import_raises(both: Path, tmp_path: Path, library: str, code: str) -> None:
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[library]
    found = program(
        both,
        f"answer([attempt({other!r}), attempt('auto'), attempt({library!r}), attempt({library!r}), logged])",
        break_library(tmp_path, library, code),
    )
    assert found[:2] == [[other], [other]]
    assert found[2] == found[3]
    assert found[2].startswith(
        f"EngineUnavailableError: no engine of the bundle can run its image tower here ({library} cpu: "
        f"{ {'openvino': 'OpenVINO', 'onnxruntime': 'ONNX Runtime'}[library] } is installed and cannot be imported ("
    )
    assert found[2].endswith(f"{BREAKAGES[code]}): {MEND.format(INSTALL[library])})")
    assert any(f"runs on {other} cpu; not on {library} cpu: " in line for line in found[4]) == (library == "openvino")


def test_ctrl_c_is_no_reason(both: Path, tmp_path: Path) -> None:
    first = break_library(tmp_path, "openvino", "raise KeyboardInterrupt")
    ran = run_python("-m", "engines", "inspect", str(both), first=first)
    assert (ran.returncode, ran.stderr.strip()) == (130, "interrupted")


@pytest.mark.parametrize(
    ("library", "code", "problem"),
    [
        (
            "openvino",
            "__version__ = '9'\ndef Core(): raise RuntimeError('no plugins.xml')",
            "RuntimeError: no plugins.xml",
        ),
        ("openvino", "def Core(): pass", "AttributeError: module 'openvino' has no attribute '__version__'"),
        (
            "onnxruntime",
            "__version__ = '9'",
            "AttributeError: module 'onnxruntime' has no attribute 'get_available_providers'",
        ),
    ],
)
def test_a_library_that_lacks_a_part(both: Path, tmp_path: Path, library: str, code: str, problem: str) -> None:
    found = program(both, f"answer([attempt('auto'), attempt({library!r})])", break_library(tmp_path, library, code))
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[library]
    assert found[0] == [other]
    assert f"is installed and does not work ({problem}): {MEND.format(INSTALL[library])})" in found[1]


def test_what_an_uninstallation_left(both: Path, tmp_path: Path) -> None:
    """Of onnxruntime beside onnxruntime-gpu, one that is uninstalled takes the other's code along: a folder is left."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    only_there = (
        "import sys\nfrom importlib.machinery import PathFinder\n"
        "class Site:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        return PathFinder.find_spec(name, [{str(tmp_path)!r}]) if name == 'onnxruntime' else None\n"
        "sys.meta_path.insert(0, Site)\n"
    )
    auto, named, again = program(
        both, f"{only_there}answer([attempt('auto'), attempt('onnxruntime'), attempt('onnxruntime')])"
    )
    assert auto == ["openvino"]
    assert named == again
    assert named.endswith(
        "(onnxruntime cpu: ONNX Runtime is not installed, and an uninstallation left a folder without its code "
        f"({tmp_path / 'onnxruntime'}): {INSTALL['onnxruntime']})"
    )


def test_a_library_that_is_not_installed(both: Path) -> None:
    hidden = "import sys\nsys.modules['openvino'] = None\n"
    auto, named = program(both, f"{hidden}answer([attempt('auto'), attempt('openvino')])")
    assert auto == ["onnxruntime"]
    assert named.endswith(f"(openvino cpu: OpenVINO is not installed: {INSTALL['openvino']})")


def test_all_are_broken(both: Path, tmp_path: Path) -> None:
    break_library(tmp_path, "onnxruntime")
    said = program(both, "answer(attempt('auto'))", break_library(tmp_path, "openvino", "import math; math.nothing"))
    assert said.startswith(
        "EngineUnavailableError: no engine of the bundle can run its image tower here (openvino cpu: "
    )
    assert "(AttributeError: module 'math' has no attribute 'nothing')" in said
    assert "; onnxruntime cpu: ONNX Runtime is installed and cannot be imported (RuntimeError: it is broken)" in said


def test_only_the_named_engine_s_library_is_imported(both: Path) -> None:
    add_engines(both, "aotinductor", version=_torch_version())
    imported = "sorted({'openvino', 'onnxruntime', 'torch'} & set(sys.modules))"
    code = f"import sys\nfirst = attempt('onnxruntime')\none = {imported}\nattempt('openvino')\nanswer([first, one, {imported}])"
    assert program(both, code) == [["onnxruntime"], ["onnxruntime"], ["onnxruntime", "openvino"]]


class TestPyTorch:
    @pytest.fixture
    def packaged(self, bundle_copy: Path) -> Path:
        """The demo bundle with entries of packages, whose files nothing here gets as far as to read."""
        add_engines(bundle_copy, "aotinductor", version=_torch_version())
        return bundle_copy

    @pytest.mark.parametrize(
        ("code", "problem"),
        [
            (
                "raise OSError('libcudart.so.13: wrong ELF class')",
                "cannot be imported (OSError: libcudart.so.13: wrong ELF class)",
            ),
            ("__version__ = '9'", "does not work (AttributeError: module 'torch' has no attribute '_C')"),
        ],
    )
    def test_broken(self, packaged: Path, tmp_path: Path, code: str, problem: str) -> None:
        found = program(
            packaged, "answer([attempt('auto'), attempt('aotinductor')])", break_library(tmp_path, "torch", code)
        )
        assert found[0] == ["onnxruntime"]
        assert (
            f"(aotinductor cpu: PyTorch is installed and {problem}: mend that or install it anew (pip install 'torch=="
            in found[1]
        )

    def test_of_another_version_and_without_metadata(self, packaged: Path, tmp_path: Path) -> None:
        first = break_library(
            tmp_path, "torch", "__version__ = '1.0.0'\nclass _C:\n    class _aoti: AOTIModelPackageLoader = None"
        )
        hidden = "import engines.runtimes.torch_library as library\nlibrary.installed_version = lambda name: None\n"
        said = program(packaged, f"{hidden}answer(attempt('aotinductor'))", first)
        assert f"built with torch {_torch_version()}, 1.0.0 is installed" in said


class TestTensorRT:
    """On a machine that pretends to have a GPU, for without one the libraries are not asked for."""

    GPU = (
        "import engines.runtimes.tensorrt as runtime\nfrom engines.device.gpu import Gpu\nruntime.gpu_missing = lambda: None\n"
        "runtime.find_gpu = lambda number=0: Gpu(0, 'NVIDIA A100', (8, 0), (13, 0))\n"
        "import engines.tensorrt.library as library\nlibrary.installed_version = lambda *names: VERSION\n"
    )

    RAISES = (
        "raise OSError('libnvinfer.so.10: no such file')",
        "cannot be imported (OSError: libnvinfer.so.10: no such file)",
    )
    LACKS = ("__version__ = '1.0'", "does not work (AttributeError: module '{}' has no attribute 'Runtime')")

    @pytest.mark.parametrize(
        ("kind", "version", "code", "problem"),
        [
            ("tensorrt", None, *RAISES),
            ("tensorrt-rtx", "1.0", *LACKS),
            *(
                pytest.param(*case, marks=pytest.mark.slow)
                for case in (
                    ("tensorrt", None, *LACKS),
                    ("tensorrt", "1.0", *RAISES),
                    ("tensorrt", "1.0", *LACKS),
                    ("tensorrt-rtx", None, *RAISES),
                    ("tensorrt-rtx", None, *LACKS),
                    ("tensorrt-rtx", "1.0", *RAISES),
                )
            ),
        ],
    )
    def test_broken(
        self, bundle_copy: Path, tmp_path: Path, kind: str, version: str | None, code: str, problem: str
    ) -> None:
        add_engines(bundle_copy, kind, device="sm80")
        module = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}[kind]
        found = program(
            bundle_copy,
            f"VERSION = {version!r}\n{self.GPU}answer([attempt('auto'), attempt({kind!r}), logged])",
            break_library(tmp_path, module, code),
        )
        assert found[0] == ["onnxruntime"]
        reason = f"{kind} sm80: {module} is installed and {problem.format(module)}: mend that or install it anew (pip install"
        assert f"({reason}" in found[1]
        assert f"not on {reason}" in found[2][0]

    def test_broken_bindings(self, bundle_copy: Path, tmp_path: Path) -> None:
        pytest.importorskip("tensorrt_rtx")
        add_engines(bundle_copy, "tensorrt-rtx", device="sm80")
        found = program(
            bundle_copy,
            f"VERSION = '1.0'\n{self.GPU}answer([attempt('auto'), attempt('tensorrt-rtx')])",
            break_library(tmp_path, "cuda.bindings"),
        )
        assert found[0] == ["onnxruntime"]
        assert "cuda-bindings is installed and cannot be imported (RuntimeError: it is broken)" in found[1]


class TestArraysOnTheGpu:
    def test_without_cuda_core(self, tmp_path: Path) -> None:
        code = (
            "from engines.device.device_arrays import device_view\nfrom engines.errors import EngineUnavailableError\n"
            "try: device_view(object(), 0)\nexcept EngineUnavailableError as error: answer(str(error))"
        )
        said = answer_of(code, break_library(tmp_path, "cuda.core"))
        assert said.startswith(
            "arrays on the GPU cannot be read: cuda-core is installed and cannot be imported (RuntimeError: "
        )

    def test_without_bindings(self, tmp_path: Path) -> None:
        code = (
            "from engines.device.cuda import Cuda\nfrom engines.errors import EngineUnavailableError\n"
            "try: Cuda()\nexcept EngineUnavailableError as error: answer(str(error))"
        )
        said = answer_of(code, break_library(tmp_path, "cuda.bindings"))
        assert said.startswith("cuda-bindings is installed and cannot be imported (RuntimeError: it is broken)")


def test_arrays_beside_what_is_left_of_pytorch(bundle_copy: Path) -> None:
    """The program itself has imported a PyTorch without code; arrays of other libraries are none of its tensors."""
    code = (
        "import sys, types, numpy as np\nsys.modules['torch'] = types.ModuleType('torch')\n"
        "class Other:\n"
        "    def __init__(self, rows): self.rows = rows\n"
        "    def __dlpack__(self, **options): return self.rows.__dlpack__(**options)\n"
        "    def __dlpack_device__(self): return self.rows.__dlpack_device__()\n"
        "with engines.load(B) as clip: answer(clip.encode_image(Other(np.zeros((2, 64, 64, 3), np.uint8))).shape)"
    )
    assert program(bundle_copy, code) == [2, 64]


class TestCommandLine:
    def test_inspect(self, both: Path, tmp_path: Path) -> None:
        add_engines(both, "aotinductor", version=_torch_version())
        break_library(tmp_path, "openvino")
        ran = run_python("-m", "engines", "inspect", str(both), first=break_library(tmp_path, "torch"))
        assert ran.returncode == 0, ran.stderr
        for words in ("OpenVINO", "PyTorch"):
            assert (
                f"no: {words} is installed and cannot be imported (RuntimeError: it is broken): mend that or"
                in ran.stdout
            )
        assert ran.stdout.count("  yes") == 2

    def test_verify(self, both: Path, tmp_path: Path) -> None:
        code = (
            "import contextlib, io\nfrom engines.__main__ import main\nfound = []\n"
            "for more in ([], ['--engine', 'openvino'], ['--engine', 'all']):\n"
            "    out, err = io.StringIO(), io.StringIO()\n"
            "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
            "        found.append(main(['verify', B, *more]))\n"
            "    found[-1] = [found[-1], out.getvalue(), err.getvalue()]\n"
            "answer(found)"
        )
        verified, *refused = program(both, code, break_library(tmp_path, "openvino"))
        assert verified[0] == 0, verified
        assert "onnxruntime" in verified[1]
        for status, _, said in refused:
            assert status == 1
            assert said.startswith(
                "error: no engine of the bundle can run its image tower here (openvino cpu: OpenVINO is "
            )
            assert said.count("\n") == 1

    @pytest.mark.parametrize("module", ["pyarrow", "pyarrow.parquet"])
    def test_parquet(self, bundle_copy: Path, tmp_path: Path, module: str) -> None:
        (tmp_path / "texts.txt").write_text("a red circle\n", encoding="utf-8")
        first = break_library(tmp_path / "site", module, "raise OSError('libarrow.so.2600: no such file')")
        if module == "pyarrow.parquet":
            (first / "pyarrow" / "__init__.py").touch()
        texts = ("--texts", str(tmp_path / "texts.txt"))
        ran = run_python(
            "-m", "engines", "embed", str(bundle_copy), *texts, "--out", str(tmp_path / "x.parquet"), first=first
        )
        assert ran.returncode == 1
        assert ran.stderr == (
            "error: writing .parquet (or pass --out x.npy) needs pyarrow: pyarrow is installed and cannot be imported (OSError: "
            f"libarrow.so.2600: no such file): {MEND.format(chr(112) + 'ip install ' + repr('openclip-engines[parquet]'))}\n"
        )
        if module == "pyarrow":
            others = ("--out", str(tmp_path / "x.npy"))
            ran = run_python("-m", "engines", "embed", str(bundle_copy), *texts, *others, first=first)
            assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="shared libraries of Linux")
class TestDriver:
    ASK = "from engines.device.gpu import find_gpu, gpu_missing\nanswer([gpu_missing(), find_gpu()])"

    def test_a_library_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "libcuda.so.1").write_text("?", encoding="utf-8")
        said, gpu = answer_of(self.ASK, LD_LIBRARY_PATH=str(tmp_path))
        assert said.startswith("the library of the NVIDIA driver cannot be loaded (OSError: ")
        assert gpu is None

    @pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
    def test_another_library_of_that_name(self, tmp_path: Path) -> None:
        subprocess.run(
            ["g++", "-shared", "-x", "c++", "-o", str(tmp_path / "libcuda.so.1"), "-"],
            input='extern "C" int cuInit(unsigned) { return 0; }',
            text=True,
            check=True,
        )
        said = answer_of(self.ASK, LD_LIBRARY_PATH=str(tmp_path))
        assert said == [
            "the library of the NVIDIA driver, libcuda.so.1, lacks cuDeviceGetCount: install the driver anew",
            None,
        ]


def _torch_version() -> str:
    return str(pytest.importorskip("torch").__version__)
