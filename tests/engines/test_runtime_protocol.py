"""engines.runtimes.protocol: every kind's module and loaded towers keep it; engines.engine_kinds names modules that exist."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_protocol import check_runtime
from typing_extensions import get_overloads

import engines
from engines.engine_kinds import AUTO_WITH_GPU, AUTO_WITHOUT_GPU, KINDS
from engines.errors import EngineError, InputError
from engines.manifest import Engine, Target, read_manifest
from engines.runtimes.choice import open_tower


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_of_a_kind(kind: str) -> None:
    """Options are those that `open_tower` takes, and the first arguments are the protocol's."""
    module = importlib.import_module(KINDS[kind].runtime)
    parameters = inspect.signature(module.open_tower).parameters
    by_place = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_place == ["bundle", "engine", "tower", "precision", "device"]
    assert parameters["device"].default == "auto"
    by_name = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert by_name
    assert list(module.Options.__annotations__) == by_name
    assert not module.Options.__required_keys__
    assert list(inspect.signature(module.why_not).parameters)[:3] == ["engine", "precision", "device"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_classes_of_a_kind(kind: str) -> None:
    """Also those that need a GPU: each class that `open_tower` may return has the protocol's methods."""
    module = importlib.import_module(KINDS[kind].runtime)
    returned = inspect.signature(module.open_tower).return_annotation
    for name in returned.split(" | "):
        found = getattr(module, name)
        for method in ("run", "run_on_device", "close"):
            assert callable(getattr(found, method)), (name, method)
        assert isinstance(found.takes_device_arrays, bool), name
        assert isinstance(found.splits, bool), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_builder_of_a_kind(kind: str) -> None:
    module = importlib.import_module(KINDS[kind].builder)
    assert list(inspect.signature(module.check).parameters) == ["kind", "options"]
    assert len(inspect.signature(module.build).parameters) == 5


def test_what_auto_takes_exists() -> None:
    assert KINDS[AUTO_WITH_GPU].cuda
    assert KINDS[AUTO_WITHOUT_GPU].cpu
    assert all(kind.cpu or kind.cuda for kind in KINDS.values())


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_a_loaded_tower(demo_bundle: Path, kind: str) -> None:
    pytest.importorskip(kind)
    manifest = read_manifest(demo_bundle)
    engine = Engine(kind=kind, tower="text", file="text.onnx", target=Target(library=kind, version="0"))
    with contextlib.closing(open_tower(demo_bundle, engine, manifest.towers["text"], "fp32")) as runtime:
        check_runtime(runtime)
        assert not runtime.takes_device_arrays
        with pytest.raises(EngineError, match="takes rows on the host"):
            runtime.run_on_device(np.zeros((1, 4), np.int32))
    for option in ("parallel", "precision", "tower"):  # the last two are names of the function's own parameters
        with pytest.raises(InputError, match=f"engine {kind} has no option '{option}': it takes threads"):
            open_tower(demo_bundle, engine, manifest.towers["text"], "fp32", **{option: 2})


@pytest.mark.parametrize("package", ["engines", "exporter"])
def test_public_names_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    assert not set(module._HOMES) - set(module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 keeps no overloads at run time")
def test_load_has_an_overload_for_every_kind() -> None:
    annotations = " ".join(
        inspect.signature(each).parameters["engine"].annotation for each in get_overloads(engines.load)
    )
    assert {kind for kind in KINDS if f"'{kind}'" in annotations or f'"{kind}"' in annotations} == set(KINDS)
