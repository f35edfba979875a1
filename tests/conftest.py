"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from file_order import LONGEST
from made_once import made_once, session_folder
from tokenizers_once import read_tokenizers_once
from translated_once import keep_translations

# Set before PyTorch is imported. Otherwise each process that compiles for the CPU first tries every instruction set that the
# processor has with the compiler, two seconds each.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
# Set before Ray is imported: several tests share one Ray, whose lines about workers that were killed would come at any later time.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which pytest-xdist hands out files, with ``--dist loadfile --no-loadscope-reorder``."""
    places = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


def pytest_sessionfinish() -> None:
    """At its end Python takes apart all that there is: of objects that it left out, libraries print that they were forgotten."""
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_not_searched() -> None:
    """Garbage collection leaves out what was there before the file's first test: of imported libraries alone it is half a second.

    Each export collects four times, because its memory goes back to the system between its stages.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled demo model, exported in float32. Read only: copy it to change something."""
    import exporter

    session = session_folder(tmp_path_factory)
    keep_translations(session)
    return made_once(session, "demo", lambda out: exporter.export("demo", out=out, parity_samples=16))


@pytest.fixture(scope="session")
def normalized_image_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's image tower in float32, which takes normalized pixels. Read only."""
    import exporter

    def make(out: Path) -> None:
        exporter.export("demo", image_input="float32", towers=("image",), out=out, parity_samples=4)

    return made_once(session_folder(tmp_path_factory), "demo-normalized", make)


@pytest.fixture
def bundle_copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def _rtx_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporter.options.engine_options import EngineOptions
    from exporter.pipeline import export

    pytest.importorskip("tensorrt_rtx")

    def make(out: Path) -> None:
        options = EngineOptions(targets=("sm80", "sm89"))
        kinds = ("tensorrt-rtx", "onnxruntime")
        export("demo", precision="fp16", engines=kinds, out=out, parity_samples=16, engine_options=options)

    return made_once(session_folder(tmp_path_factory), "demo-rtx", make)


@pytest.fixture
def rtx_bundle(_rtx_bundle: Path, tmp_path: Path) -> Path:
    """The demo model in fp16 with TensorRT-RTX engines for two targets, built on the CPU; a copy that a test may damage."""
    return Path(shutil.copytree(_rtx_bundle, tmp_path / "rtx"))


@pytest.fixture(scope="session", autouse=True)
def _session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return session_folder(tmp_path_factory)


@pytest.fixture(autouse=True)
def _work_is_kept(_session: Path) -> None:
    keep_translations(_session)
    read_tokenizers_once()
