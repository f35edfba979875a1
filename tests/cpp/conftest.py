"""Fixtures of the C++ library: the library itself, built once a session, and bundles for it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bundle_answers import full_manifest
from cpp_library import CppLibrary
from made_once import made_once, session_folder

ROOT = Path(__file__).parents[2]
# OpenVINO's threads come from a library that AddressSanitizer refuses to load (RTLD_DEEPBIND).
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
_WITH_OPENVINO = ("openvino", "engines_are_chosen", "inspect_has_a_reason", "verify_finds", "test_cpp_bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs OpenVINO where the sanitizers are loaded."""
    for item in items if SANITIZED else ():
        if any(word in item.nodeid for word in _WITH_OPENVINO):
            item.add_marker(pytest.mark.skip(reason="AddressSanitizer refuses OpenVINO's libraries"))


def _build_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_cpp", ROOT / "engines/cpp/tools/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cpp_folder() -> Path:
    """The folder of the built library: that of ``make cpp``. Tests are skipped where the packages to build it are missing.

    With OCE_TEST_FOLDER, the tests run an existing build, for example one with sanitizers.
    """
    if folder := os.environ.get("OCE_TEST_FOLDER"):
        return Path(folder)
    program = _build_program()
    missing = program.missing_packages()
    if missing and not os.environ.get("CI"):  # CI installs them, and lets nothing be skipped
        pytest.skip(f"the C++ library needs packages that are not installed: {' '.join(missing)}")
    program.build(ROOT / "build", [], quiet=True)
    return ROOT / "build"


@pytest.fixture(scope="session")
def cpp(cpp_folder: Path) -> CppLibrary:
    """The C API."""
    return CppLibrary(cpp_folder / "libopenclip_engines.so")


@pytest.fixture(scope="session")
def two_engines_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with engines for ONNX Runtime and OpenVINO. Read only."""
    import exporter

    session = session_folder(tmp_path_factory)
    engines = ("onnxruntime",) if SANITIZED else ("onnxruntime", "openvino")
    return made_once(
        session, "demo-cpp", lambda out: exporter.export("demo", out=out, engines=engines, parity_samples=4)
    )


@pytest.fixture(scope="session")
def bundle_for_links(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo bundle whose files may have hard links; those of the shared one may not, because onnx refuses them."""
    return shutil.copytree(demo_bundle, tmp_path_factory.mktemp("links") / "bundle")


@pytest.fixture
def preprocess_bundle(bundle_for_links: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """A function that copies the demo bundle with other fields of ``preprocess``, for ``engine="none"``."""

    def edited(fields: dict[str, Any]) -> Path:
        folder = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(bundle_for_links, folder, copy_function=os.link)
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["preprocess"].update(fields)
        height, width = manifest["preprocess"]["size"]
        manifest["towers"]["image"]["input"]["shape"][1:] = [height, width, 3]
        path.unlink()
        path.write_text(json.dumps(manifest), encoding="utf-8")
        return folder

    return edited


@pytest.fixture(scope="module")
def original(demo_bundle: Path) -> Any:
    """A manifest in which every field of every struct has a value."""
    return full_manifest(demo_bundle)


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo bundle's files, in which tests write the manifest."""
    return Path(shutil.copytree(demo_bundle, tmp_path_factory.mktemp("cpp") / "bundle"))
