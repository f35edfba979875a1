"""ONNX Runtime's real CUDA provider under this project's towers, on pretended CUDA libraries that compute nothing.

`pretended_cuda` says what is real in it: all but the device. What is checked is which calls of CUDA are made, in which order and by
which thread, and what ONNX Runtime does that `engines` relies on. The fixture downloads onnxruntime-gpu, some 250 MB for each
version; PIP_FIND_LINKS may name a folder that has it. Embeddings need a GPU: `test_onnxruntime_gpu.py`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import floor
import onnx
import pytest
import torch
from pretended_cuda.libraries import make_libraries, missing_tool, read_need
from pretended_cuda.log import ALLOCATIONS, COPIES, Call, address, kernels, only, read_log, waits
from pretended_cuda.scenarios import DIM, LIMIT, ROWS, RUNS, THREADS
from pretended_cuda.wheels import NotInstalledError, cuda_headers, install, provider_library
from pretended_cuda.worker import Findings, Job
from shallow import FAMILIES, register

from engines.manifest import TextLength, read_manifest
from engines.onnxruntime.cpu_nodes import shape_nodes
from engines.onnxruntime.cuda_graphs import graph_shapes
from exporter.child_process import ChildFailedError, run_child
from exporter.graphs.onnx_graph import example_input, export_graph
from exporter.pipeline import export
from exporter.precision.precisions import PrecisionPlan, apply_plan
from exporter.source.loading import load_source
from exporter.towers.modules import image_tower, text_tower

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
pytest.importorskip("cuda.core", reason="cuda-core is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_tool() is not None, reason=f"{missing_tool()} is not installed"),
]

TESTS = Path(__file__).parents[1]
NOTHING = {"bytes": 0, "pinned": 0, "stream": 0, "event": 0, "graph": 0, "executable": 0}
GLOBAL = "0"  # cudaStreamCaptureModeGlobal


def lowest() -> str:
    """The lowest onnxruntime-gpu that pyproject.toml allows."""
    project = floor.tomllib.loads((floor.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = floor.floors(line for line in project["optional-dependencies"]["gpu"] if line.startswith("onnxruntime-gpu"))
    return found[0]


@dataclass(frozen=True)
class Played:
    """What a scenario answered, and the calls of CUDA in each of its sections."""

    onnxruntime: str
    answers: dict[str, Any]
    sections: dict[str, list[Call]]


@dataclass(frozen=True)
class Installed:
    """An onnxruntime-gpu and its pretended libraries."""

    site: Path
    libraries: Path
    logs: Path

    def play(self, scenario: str, bundle: Path, environment: Mapping[str, str] | None = None) -> Played:
        """Run a scenario in a process of its own."""
        log = self.logs / f"{scenario}.log"
        log.unlink(missing_ok=True)
        variables = {
            "LD_LIBRARY_PATH": str(self.libraries),
            "PRETENDED_CUDA_LOG": str(log),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TESTS, self.site))))
            try:
                found = run_child(
                    "pretended_cuda.worker", Job(scenario=scenario, bundle=str(bundle)), Findings, variables
                )
            except ChildFailedError as error:
                pytest.fail(f"{scenario}: {error}\n{error.output}")
        return Played(found.onnxruntime, found.answers, read_log(log))


@pytest.fixture(scope="module", params=["lowest", "newest"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("pretended-cuda")
    try:
        site = folder / "site"
        try:
            install([lowest() if request.param == "lowest" else "onnxruntime-gpu"], site)
            need = read_need(provider_library(site))
            headers = cuda_headers(need.cuda, folder / "headers")
        except NotInstalledError as error:
            pytest.skip(str(error))
        make_libraries(need, headers, folder / "libraries")
        yield Installed(site, folder / "libraries", folder)
    finally:  # 400 MB
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in float16."""
    out = tmp_path_factory.mktemp("bundles") / "demo"
    return export("demo", precision="fp16", engines=("onnxruntime",), out=out, parity_samples=16)


@pytest.fixture
def whole_numbers(bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose text tower looks for the largest id among whole numbers, as earlier exports did."""
    copy = Path(shutil.copytree(bundle, tmp_path / "demo"))
    path = copy / read_manifest(copy).towers["text"].graph
    model = onnx.load(path, load_external_data=False)
    search = next(node for node in model.graph.node if node.op_type == "ArgMax")
    search.input[0] = model.graph.input[0].name
    path.write_bytes(model.SerializeToString())
    return copy


@pytest.fixture
def graphs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Exports a family's towers, shallow ones, in float16 with random weights into a folder."""
    folder = tmp_path / "graphs"
    folder.mkdir()

    def make(family: str) -> Path:
        source = load_source(register(family, tmp_path), "none", with_tokenizer=False)
        half = PrecisionPlan(torch.float16, torch.float16)
        for name, tower in (
            ("image", image_tower(source.model, source.preprocess)),
            ("text", text_tower(source.model)),
        ):
            apply_plan(tower, half)
            length = TextLength(keep="end", extra=0, min=2, max=77) if name == "text" else None
            export_graph(tower, example_input(tower, source.preprocess.size, 9), folder / f"{name}.onnx", length)
        return folder

    yield make
    shutil.rmtree(folder)  # up to 1 GB


def streams(calls: list[Call]) -> set[int]:
    """The streams of kernels."""
    return {call.stream for call in kernels(calls)}


def touched(calls: list[Call]) -> set[int]:
    """Addresses that were copied from and to."""
    return {address(call.values[key]) for call in only(calls, COPIES) for key in ("source", "target")}


def test_only_shapes_are_computed_on_the_cpu(installed: Installed, bundle: Path) -> None:
    played = installed.play("nodes", bundle)
    expected = f"onnxruntime {played.onnxruntime} CUDAExecutionProvider"
    assert played.answers["engines"] == {"image": expected, "text": expected}
    for tower in ("image", "text"):
        found = played.answers[tower]
        assert {"Attention", "LayerNormalization", "Gelu", "MatMul"} <= set(found["cuda"])
        assert set(found["cpu"]) <= shape_nodes(bundle / f"{tower}.onnx")
    assert "ArgMax" in played.answers["text"]["cuda"]
    assert "Conv" in played.answers["image"]["cuda"]


@pytest.mark.parametrize("installed", ["lowest"], indirect=True)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_has_more_than_shapes_on_the_cpu(
    installed: Installed, family: str, graphs: Callable[[str], Path]
) -> None:
    folder = graphs(family)
    answers = installed.play("placed", folder).answers
    assert set(answers) == {"image", "text"}
    for tower, found in answers.items():
        assert set(found["cpu"]) <= shape_nodes(folder / f"{tower}.onnx"), tower
        assert "MatMul" in found["cuda"]


def test_onnxruntimes_own_option_refuses_nodes_that_compute_shapes(installed: Installed, bundle: Path) -> None:
    assert installed.play("nodes", bundle).answers["image"]["cpu"], "there is one"
    assert "assigned to the default CPU EP" in str(installed.play("no_fallback", bundle).answers["error"])


def test_a_node_without_a_cuda_kernel_is_refused_by_name(installed: Installed, whole_numbers: Path) -> None:
    played = installed.play("refused", whole_numbers)
    assert "1 node of text.onnx (ArgMax node_argmax)" in str(played.answers["error"])
    assert played.answers["left"] == NOTHING
    # Where it is allowed, the ids are copied to the host and back, and the GPU is waited for.
    copies = [(call.values["from"], call.values["to"]) for call in only(played.sections["allowed"], COPIES)]
    assert {("device", "pageable"), ("pageable", "device")} <= set(copies)
    assert waits(played.sections["allowed"])


def test_rows_on_the_device_stay_in_the_order_of_the_callers_stream(installed: Installed, bundle: Path) -> None:
    played = installed.play("order", bundle)
    calls, caller = played.sections["device"], played.answers["caller"]
    (tower,) = streams(calls)
    assert tower != caller
    order = [
        ("kernel" if call.launches else call.name, call.stream)
        for call in calls
        if call.launches or call.name in ("cuEventRecord", "cuStreamWaitEvent")
    ]
    assert [key for key, _ in groupby(order)] == [
        ("cuEventRecord", caller),
        ("cuStreamWaitEvent", tower),
        ("kernel", tower),
        ("cuEventRecord", tower),
        ("cuStreamWaitEvent", caller),
    ]
    assert not waits(calls)
    assert not only(calls, ALLOCATIONS)
    assert all(call.stream == tower for call in only(calls, COPIES))
    assert not touched(calls) & {played.answers["rows"], played.answers["result"]}


def test_without_a_stream_the_call_waits_once_at_its_end(installed: Installed, bundle: Path) -> None:
    calls = installed.play("order", bundle).sections["device, no stream"]
    (tower,) = streams(calls)
    assert [(call.name, call.stream) for call in waits(calls)] == [("cuStreamSynchronize", tower)]
    assert calls[-1].name == "cuStreamSynchronize"


def test_rows_on_the_host_are_copied_in_the_towers_stream(installed: Installed, bundle: Path) -> None:
    played = installed.play("order", bundle)
    calls = played.sections["host"]
    (tower,) = streams(calls)
    copies = only(calls, COPIES)
    assert all(call.stream == tower for call in copies)
    assert address(copies[0].values["source"]) == played.answers["host"]
    assert copies[-1].values["size"] == str(3 * DIM * 4)
    assert [call for call in waits(calls) if call not in copies] == calls[-1:]
    assert (calls[-1].name, calls[-1].stream) == ("cudaStreamSynchronize", tower)
    assert not only(calls, ALLOCATIONS)


def test_runs_of_several_threads_take_turns(installed: Installed, bundle: Path) -> None:
    calls = installed.play("threads", bundle, {"PRETENDED_CUDA_LAUNCH_MICROSECONDS": "100"}).sections["threads"]
    assert len(streams(calls)) == 1
    turns = [thread for thread, _ in groupby(call.thread for call in kernels(calls))]
    assert len(set(turns)) == THREADS
    assert len(turns) <= THREADS * RUNS * 2


def test_graphs_are_captured_while_the_tower_is_opened_and_then_replayed(installed: Installed, bundle: Path) -> None:
    played = installed.play("graphs", bundle)
    opened = played.sections["open"]
    captures = only(opened, ["cudaStreamBeginCapture"])
    assert len(captures) == len(graph_shapes((1, 2), read_manifest(bundle).towers["text"].length))
    assert len(only(opened, ["cudaGraphInstantiate"])) == len(captures)
    (tower,) = {call.stream for call in captures}
    (thread,) = {call.thread for call in captures}
    calls = played.sections["replay on the device"]
    replays = only(calls, ["cudaGraphLaunch"])
    assert len({call.values["executable"] for call in replays}) == len(replays) == 2
    assert not waits(calls)
    assert not kernels(calls)
    assert not only(calls, ALLOCATIONS)
    calls = played.sections["replay on the host"]
    assert len(only(calls, ["cudaGraphLaunch"])) == 1
    assert [call.name for call in waits(calls)] == [calls[-1].name] == ["cuStreamSynchronize"]
    assert not kernels(calls)
    assert not only(calls, ALLOCATIONS)
    calls = played.sections["threads"]
    assert len(only(calls, ["cudaGraphLaunch"])) == 3
    assert not kernels(calls)
    for name in ("open", "replay on the device", "replay on the host", "threads"):
        calls = played.sections[name]
        found = [*kernels(calls), *only(calls, ["cudaGraphLaunch", "cudaStreamBeginCapture"])]
        assert {(call.thread, call.stream) for call in found} == {(thread, tower)}
    calls = played.sections["a larger batch"]
    assert streams(calls) == {tower}
    assert not waits(calls)
    assert not only(calls, ["cudaGraphLaunch"])
    later = [call for name, calls in played.sections.items() if name != "open" for call in calls]
    assert not only(later, ["cudaStreamBeginCapture"])
    assert played.answers["left"] == NOTHING


def test_the_arena_keeps_its_limit_whatever_shapes_come(installed: Installed, bundle: Path) -> None:
    played = installed.play("memory", bundle)
    answers, calls = played.answers, played.sections["limited"]
    assert answers["opened"] < answers["most"] <= LIMIT
    assert only(calls, ["cudaFree"]), "an arena that is full is shrunk"
    half = max(ROWS) // 2
    assert half not in ROWS
    assert str(half * DIM * 4) in {call.values["size"] for call in only(calls, COPIES)}, "a batch is halved"
    assert answers["before"] == answers["left"] == NOTHING
    assert "raise cuda_memory_limit" in str(answers["error"])


def test_what_onnxruntime_does_with_a_graph_of_two_threads(installed: Installed, bundle: Path) -> None:
    """A graph belongs to the thread that captured it, and is captured in the mode that forbids allocations to every thread."""
    sections = installed.play("graphs_of_two_threads", bundle).sections
    executables, threads = set(), set()
    for number in (0, 1):
        calls = sections[f"thread {number}"]
        assert [call.values["mode"] for call in only(calls, ["cudaStreamBeginCapture"])] == [GLOBAL]
        replays = only(calls, ["cudaGraphLaunch"])
        ((executable, thread),) = {(call.values["executable"], call.thread) for call in replays}
        executables.add(executable)
        threads.add(thread)
    assert len(executables) == len(threads) == 2


def test_what_onnxruntime_shares_between_threads_in_a_stream_that_it_was_given(
    installed: Installed, bundle: Path
) -> None:
    """One handle of cuBLAS and one of cuDNN for all runs, those under way at once, too.

    In streams of its own, each thread keeps a stream and its handles from run to run, whether or not the runs meet.
    """
    played = installed.play("handles", bundle)
    for section, count in (("given, in turn", 1), ("given, at once", 1), ("own, in turn", 2), ("own, at once", 2)):
        calls = played.sections[section]
        for name in ("cublasGemmEx", "cudnnReduceTensor"):
            found = only(calls, [name])
            assert len({call.thread for call in found}) == 2
            assert len({call.values["first"] for call in found}) == count, (section, name)
        assert len(streams(calls)) == count
        if section.startswith("given"):
            assert streams(calls) == {played.answers["given"]}


def test_what_an_arena_costs_that_is_shrunk_after_every_run(installed: Installed, bundle: Path) -> None:
    """It allocates every intermediate result anew; one that keeps its memory allocates nothing."""
    sections = installed.play("shrinking", bundle).sections
    assert not only(sections["kept"], ALLOCATIONS)
    assert len(only(sections["shrunk"], ["cudaMalloc"])) > 10
    assert len(only(sections["shrunk"], ["cudaFree"])) > 10
