"""AOTInductor's packages: what may be asked, what is built, and what the bundle says about it."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from aotinductor_bundle import aotinductor_bundle
from shallow import FAMILIES, register

import engines
from engines.__main__ import main as engines_main
from engines.device.gpu import Gpu, gpu_missing
from engines.manifest import BatchProfile, Build, Engine, Range, Target, TextLength, Tower, read_manifest
from engines.runtimes.aotinductor import cpu_isa, open_tower
from engines.verification.embeddings import verify_bundle
from exporter.__main__ import main
from exporter.aotinductor import job as jobs
from exporter.aotinductor import worker
from exporter.aotinductor.job import CompileJob, CompileResult, run_job
from exporter.aotinductor.program import ProgramPlan, save_program
from exporter.aotinductor.tower_programs import TowerPrograms
from exporter.builders import aotinductor as build_aotinductor
from exporter.builders import registry as build_engines
from exporter.child_process import ChildFailedError
from exporter.errors import ExportError, IncompleteBundleError
from exporter.graphs.onnx_graph import example_input
from exporter.options.engine_options import EngineOptions
from exporter.pipeline import Options, export, run_export
from exporter.source.loading import load_source
from exporter.stages import Stages
from exporter.towers.modules import image_tower, text_tower
from kernels.swap import SwapReport

no_gpu = pytest.mark.skipif(gpu_missing() is None, reason="there is a GPU")
CPU = EngineOptions(targets=("cpu",))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aotinductor_bundle(tmp_path_factory)


class TestOptions:
    def test_cpu(self) -> None:
        build_aotinductor.check("aotinductor", CPU)
        assert build_aotinductor.devices(CPU) == ("cpu",)

    @no_gpu
    def test_the_cpu_is_the_default_without_a_gpu(self) -> None:
        assert build_aotinductor.devices(EngineOptions()) == ("cpu",)

    @no_gpu
    @pytest.mark.parametrize("target", ["sm80", "current", "gpu"])
    def test_targets_that_are_not_here(self, target: str) -> None:
        with pytest.raises(
            ExportError, match=rf"not for {target} \(this machine has no NVIDIA driver\): .*--target cpu"
        ):
            build_aotinductor.check("aotinductor", EngineOptions(targets=("cpu", target)))

    def test_what_packages_for_a_gpu_need_is_asked_before_anything_slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        old = Gpu(index=0, name="NVIDIA H100", capability=(9, 0), driver=(11, 8))
        monkeypatch.setattr(build_aotinductor, "gpu_missing", lambda: None)
        monkeypatch.setattr(build_aotinductor, "find_gpu", lambda: old)
        with pytest.raises(ExportError, match=r"engine aotinductor needs .*"):
            build_aotinductor.check("aotinductor", EngineOptions())
        build_aotinductor.check("aotinductor", CPU)

    def test_options_that_it_lacks(self) -> None:
        with pytest.raises(ExportError, match="engine aotinductor has no --strip-weights"):
            build_aotinductor.check("aotinductor", EngineOptions(strip_weights=True))

    def test_without_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(ExportError, match="needs a C\\+\\+ compiler, and no-such-compiler is not there: apt-get"):
            build_aotinductor.check("aotinductor", CPU)
        monkeypatch.setenv("CXX", "false")
        with pytest.raises(ExportError, match="and false is older: install GCC 11"):
            build_aotinductor.check("aotinductor", CPU)

    def test_another_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build_aotinductor, "cpu_isa", lambda: None)
        with pytest.raises(ExportError, match="builds on Linux and x86-64 processors with AVX2 or AVX-512"):
            build_aotinductor.check("aotinductor", CPU)

    @no_gpu
    def test_each_kind_gets_its_targets(self) -> None:
        options = EngineOptions(targets=("sm80", "cpu"))
        both = ("tensorrt-rtx", "aotinductor")
        assert build_engines._share("tensorrt-rtx", both, options).targets == ("sm80",)
        assert build_engines._share("aotinductor", both, options).targets == ("cpu",)
        assert build_engines._share("aotinductor", ("aotinductor", "onnxruntime"), options) == options
        alone = EngineOptions(targets=("sm80",))
        assert build_engines._share("aotinductor", both, alone) == alone  # which `check` refuses

    def test_only_who_asks_pays_for_a_program(self, tmp_path: Path) -> None:
        assert build_engines.program_plan(["onnxruntime", "tensorrt"], EngineOptions(), tmp_path / "none") is None
        assert not (tmp_path / "none").exists()
        batches = (Range(min=1, opt=8, max=16),)
        plan = build_engines.program_plan(
            ["aotinductor"], EngineOptions(targets=("cpu",), batches=batches), tmp_path / "p"
        )
        assert plan == ProgramPlan(tmp_path / "p", rows=8, most=None)

    def test_one_program_is_tuned_for_the_largest_usual_batch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever profile comes first: 1:1:32 did, and packages that were measured at 256 were tuned for 2."""
        monkeypatch.setattr(build_aotinductor, "devices", lambda options: ("sm90", "cpu"))
        latency, throughput = Range(min=1, opt=1, max=32), Range(min=32, opt=64, max=256)
        for name, batches in {"a": (latency, throughput), "b": (throughput, latency)}.items():
            options = EngineOptions(batches=batches)
            plan = build_aotinductor.program_plan(options, tmp_path / name)
            assert (plan.rows, plan.most) == (64, 256)
            package = next(iter(TestSideBySide.packages(tmp_path, ("sm90",))))
            result = jobs.CompileResult(
                version="2.15.0",
                build=Build(seconds=1.0, peak_memory_bytes=1, fused_attention=0, decomposed_attention=0),
            )
            entry = build_aotinductor._engine(package, tmp_path, options, result)
            assert entry.batch == BatchProfile(min=1, opt=64, max=256)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about processors of x86-64")
@pytest.mark.parametrize(("isa", "planned"), [("avx2", ["avx2"]), ("avx512", ["avx512", "avx2"])])
def test_instruction_sets_are_known_without_the_compiler(
    isa: str, planned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config, cpu_vec_isa

    def ask(self: Any, code: str) -> bool:
        raise AssertionError(f"the compiler was asked about {self}")

    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["avx2", "avx512", "amx_tile", "avx512_vnni"])
    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", ask)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # a question of its own
    with config.patch({"cpp.vec_isa_ok": None}):  # as it is where the environment says nothing
        worker._look_only_for(isa)
        cpu_vec_isa.valid_vec_isa_list.cache_clear()
        try:
            assert [str(found) for found in cpu_vec_isa.valid_vec_isa_list()] == planned
        finally:
            cpu_vec_isa.valid_vec_isa_list.cache_clear()


class TestFailures:
    JOB = CompileJob(program="p.pt2", package="engines/aotinductor/image-cpu.pt2", cuda=False, isa="avx2", inductor={})

    @pytest.mark.parametrize(
        ("code", "output", "expected"),
        [
            (-9, "", "aotinductor cannot compile image-cpu: the system killed the compiler, most likely for want"),
            (
                1,
                "Traceback\n  File\ntorch._inductor.exc.InductorError: KeyError: 'x'\n\nSet TORCH=1",
                "cpu: KeyError: 'x'",
            ),
            (1, "RuntimeError: C++ compile error\na.cpp:3:5: error: expected ';'\nx", "image-cpu: expected ';'"),
            (-6, "terminate called", "image-cpu (it died with signal 6): terminate called"),
            (0, "", "image-cpu: it said nothing"),
            (1, "ValueError: " + "x" * 900, "xx …"),
        ],
    )
    def test_sentences(self, code: int, output: str, expected: str) -> None:
        said = jobs._failure(self.JOB, ChildFailedError(code, output))
        assert expected in said
        assert len(said) < 500
        assert "\n" not in said

    @pytest.mark.slow  # test_one_package_costs_no_other gives the compiler such a program, too
    def test_a_program_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "p.pt2").write_bytes(b"nothing")
        job = CompileJob(
            program=str(tmp_path / "p.pt2"), package=str(tmp_path / "x.pt2"), cuda=False, isa="avx2", inductor={}
        )
        with pytest.raises(ExportError, match="aotinductor cannot compile x: "):
            run_job(job)

    def test_nothing_is_left_of_a_failed_export(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(job: CompileJob) -> Any:
            raise ExportError("refused")

        monkeypatch.setattr(build_aotinductor, "compiling", refuse)
        with pytest.raises(ExportError, match="refused"):
            export(
                "demo",
                engines=("aotinductor",),
                towers=("text",),
                engine_options=CPU,
                out=tmp_path / "b",
                parity_samples=4,
            )
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(IncompleteBundleError, match="b was written without aotinductor") as raised:
            export(
                "demo",
                engines=("aotinductor", "onnxruntime"),
                towers=("text",),
                engine_options=CPU,
                out=tmp_path / "b",
                parity_samples=4,
            )
        assert raised.value.path == tmp_path / "b"
        assert {engine.kind for engine in read_manifest(tmp_path / "b").engines} == {"onnxruntime"}
        assert not (tmp_path / "b" / "engines" / "aotinductor").exists()

    def test_one_package_costs_no_other(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The compiler refuses the image tower: the text tower's package stays, and serves beside the other engine."""
        compiling = build_aotinductor.compiling

        @contextlib.contextmanager
        def without_images(job: CompileJob) -> Iterator[Callable[[], CompileResult]]:
            if "text" in job.package:
                # The package of the same program, which takes the compiler twenty seconds.
                shutil.copy(bundle / "engines" / "aotinductor" / "text-cpu.pt2", job.package)
                build = Build(seconds=1.0, peak_memory_bytes=1, fused_attention=2, decomposed_attention=0)
                yield lambda: CompileResult(version=str(torch.__version__), build=build)
                return
            # What the compiler is given is no program of an image tower.
            damaged = Path(job.program).with_name("damaged.pt2")
            damaged.write_bytes(b"nothing")
            with compiling(msgspec.structs.replace(job, program=str(damaged))) as wait:
                yield wait

        monkeypatch.setattr(build_aotinductor, "compiling", without_images)
        out, stages = tmp_path / "b", Stages()
        asked = ("aotinductor", "onnxruntime")
        result = run_export(Options("demo", engines=asked, engine_options=CPU, out=out, parity_samples=4), stages)
        engines_there = {(engine.kind, engine.tower) for engine in result.manifest.engines}
        assert engines_there == {("aotinductor", "text"), ("onnxruntime", "image"), ("onnxruntime", "text")}
        assert [path.name for path in (out / "engines" / "aotinductor").iterdir()] == ["text-cpu.pt2"]
        (missing,) = result.missed
        assert (missing.kind, missing.tower, missing.device) == ("aotinductor", "image", "cpu")
        assert [note for note in stages.notes if note.startswith("left out: ")] == [f"left out: {missing.why}"]
        assert missing.why.startswith("aotinductor cannot compile image-cpu: ")
        assert [item["tower"] for item in json.loads((out / "report.json").read_text())["left_out"]] == ["image"]
        with pytest.raises(IncompleteBundleError, match="written without aotinductor cpu of the image tower"):
            result.check_complete()
        judged = {row.engine: set(row.towers) for row in result.manifest.parity}
        assert judged == {"aotinductor": {"text"}, "onnxruntime": {"image", "text"}}
        with engines.load(out, engine="auto") as clip:
            assert clip.encode_text(["a red circle"]).shape == (1, 64)
        with engines.load(out, engine="aotinductor", towers=("text",)) as clip:
            assert "torch" in clip.engines["text"]
        found = {row.engine: set(row.towers) for row in verify_bundle(out, engine="all")}
        assert found == judged


class TestSideBySide:
    """Packages for the CPU are made at the same time where there are cores and memory for it; a GPU's never are."""

    @staticmethod
    def packages(folder: Path, devices: tuple[str, ...]) -> list[build_aotinductor._Package]:
        program = folder / "p.pt2"
        program.write_bytes(b"x" * 100)
        item: Any = type(
            "Item", (), {"name": "text", "programs": TowerPrograms(program, None, SwapReport("auto", {}, {}))}
        )
        return [build_aotinductor._package(item, device, folder) for device in devices]

    @pytest.mark.parametrize(
        ("cores", "memory", "groups"),
        [
            (2, 8_000_000_000, [["sm90"], ["cpu", "cpu"]]),
            (1, 8_000_000_000, [["sm90"], ["cpu"], ["cpu"]]),
            (8, 2_000_000_000, [["sm90"], ["cpu"], ["cpu"]]),
        ],
    )
    def test_groups(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, memory: int, groups: list[list[str]]
    ) -> None:
        monkeypatch.setattr(build_aotinductor, "usable_cores", lambda: cores)
        monkeypatch.setattr(build_aotinductor, "available_memory", lambda: memory)
        found = build_aotinductor._groups(self.packages(tmp_path, ("cpu", "sm90", "cpu")))
        assert [[package.device for package in group] for group in found] == groups

    def test_what_a_compiler_takes_is_within_what_is_reckoned_with(self, bundle: Path) -> None:
        report = json.loads(Path(f"{bundle}.json").read_text())
        stages = {row["stage"]: row for row in report["stages"]}
        for tower in ("image", "text"):
            program = stages[f"program of the {tower} tower"]["bytes"]
            peak = stages[f"build aotinductor cpu, {tower}"]["build_peak_memory_bytes"]
            assert peak < build_aotinductor._MEMORY + build_aotinductor._MEMORY_FACTOR * program


class TestBundle:
    def test_manifest(self, bundle: Path) -> None:
        manifest = read_manifest(bundle)
        built = [engine for engine in manifest.engines if engine.kind == "aotinductor"]
        assert [engine.tower for engine in built] == ["image", "text"]
        for engine in built:
            assert engine.file == f"engines/aotinductor/{engine.tower}-cpu.pt2"
            assert engine.file in manifest.files
            assert engine.target == Target(library="torch", version=torch.__version__, device="cpu", isa=cpu_isa())
            assert engine.batch == BatchProfile(min=1, opt=32, max=None)
            assert isinstance(engine.build, Build)
            assert engine.build.seconds > 0
            assert engine.build.peak_memory_bytes > 1 << 20
            assert engine.build.decomposed_attention == 0
            attentions = json.loads((bundle / "report.json").read_text())["towers"][engine.tower]["operators"][
                "Attention"
            ]
            assert engine.build.fused_attention == attentions

    def test_no_program_is_left(self, bundle: Path) -> None:
        assert not list(bundle.rglob("*programs*"))
        assert not [name for name in read_manifest(bundle).files if "programs" in name]

    def test_a_package_is_no_larger_than_the_weights(self, bundle: Path) -> None:
        for tower in ("image", "text"):
            weights = (bundle / f"{tower}.onnx.data").stat().st_size
            assert (bundle / f"engines/aotinductor/{tower}-cpu.pt2").stat().st_size < 1.1 * weights + 4_000_000

    def test_the_code_is_for_the_level_and_not_for_this_processor(self, bundle: Path) -> None:
        with zipfile.ZipFile(bundle / "engines/aotinductor/image-cpu.pt2") as package:
            (name,) = [name for name in package.namelist() if name.endswith("wrapper_metadata.json")]
            described = json.loads(package.read(name))
        assert described["AOTI_CPU_ISA"] == str(cpu_isa()).upper()

    def test_the_gate_ran_it(self, bundle: Path) -> None:
        rows = {row.engine: row for row in read_manifest(bundle).parity}
        assert set(rows) == {"aotinductor", "onnxruntime"}
        assert all(row.engine_ran and row.passed for row in rows.values())
        assert rows["aotinductor"].verified_with == f"aotinductor, torch {torch.__version__} on CPU {cpu_isa()}"

    def test_report(self, bundle: Path) -> None:
        report = json.loads(Path(f"{bundle}.json").read_text())
        stages = {row["stage"]: row for row in report["stages"]}
        assert stages["program of the image tower"]["bytes"] > 0
        assert {"bytes", "build_seconds", "build_peak_memory_bytes"} <= set(stages["build aotinductor cpu, text"])

    def test_verify(self, bundle: Path) -> None:
        rows = verify_bundle(bundle, engine="all")
        assert {row.engine for row in rows} == {"aotinductor", "onnxruntime"}
        assert all(row.passed for row in rows)


class TestCommandLine:
    """In this process; test_broken_at_export.py has the exit codes of processes of their own."""

    @no_gpu
    def test_a_gpu_that_is_not_here(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--engine", "aotinductor", "--target", "sm80", "--out", str(tmp_path / "b")]) == 1
        assert capsys.readouterr().err == (
            "error: engine aotinductor builds for this machine's GPU or CPU, not for sm80 (this machine has no NVIDIA driver): "
            "run this on a machine with such a GPU, or pass --target cpu\n"
        )
        assert not (tmp_path / "b").exists()

    def test_inspect(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert engines_main(["inspect", str(bundle)]) == 0
        assert f"torch {torch.__version__} cpu" in capsys.readouterr().out

    def test_verify(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert engines_main(["verify", str(bundle), "--engine", "aotinductor"]) == 0
        assert "verified" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family(architecture: str, tmp_path: Path) -> None:
    source = load_source(register(architecture, tmp_path), "none", with_tokenizer=False)
    model: Any = source.model
    # CoCa appends a token of its own to the ids.
    length = TextLength(keep="end", extra=0, min=2, max=76 if "coca" in architecture else 77)
    rng = np.random.default_rng(0)
    for name, tower in (("image", image_tower(model, source.preprocess)), ("text", text_tower(model))):
        texts = name == "text"
        example = example_input(tower, source.preprocess.size, 9)
        plan = ProgramPlan(tmp_path, rows=4, most=None)
        program = save_program(tower, example, length if texts else None, plan)
        package = tmp_path / f"{name}-cpu.pt2"
        isa = cpu_isa()
        assert isa is not None
        result = run_job(
            CompileJob(
                program=str(program),
                package=str(package),
                cuda=False,
                isa=isa,
                inductor=build_aotinductor.inductor_options("cpu"),
            ),
        )
        assert result.build.decomposed_attention == 0
        runtime = open_package(package, example, tower, length if texts else None, isa)
        for rows in (1, 2, 5):
            shape = (rows, int(rng.integers(2, length.max + 1))) if texts else (rows, *example.shape[1:])
            inputs = rng.integers(1, 255, shape).astype(np.int32 if texts else np.uint8)
            with torch.inference_mode():
                expected = tower(torch.from_numpy(inputs)).numpy()
            np.testing.assert_allclose(runtime.run(inputs), expected, atol=2e-5)
        runtime.close()


def open_package(package: Path, example: torch.Tensor, tower: Any, length: TextLength | None, isa: str) -> Any:
    from engines.manifest import Tensor

    free = ("N", "L") if length is not None else ("N", *example.shape[1:])
    dtype = str(example.dtype).removeprefix("torch.")
    signature = Tower(
        graph="none.onnx",
        input=Tensor(name=tower.input_name, dtype=dtype, shape=free),
        output=Tensor(name=tower.output_name, dtype="float32", shape=("N", 1)),
        length=length,
    )
    engine = Engine(
        kind="aotinductor",
        tower="image" if length is None else "text",
        file=package.name,
        target=Target(library="torch", version=torch.__version__, device="cpu", isa=isa),
    )
    return open_tower(package.parent, engine, signature, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions(precision: str, tmp_path: Path) -> None:
    path = export(
        "demo", precision=precision, engines=("aotinductor",), engine_options=CPU, parity_samples=16, out=tmp_path / "b"
    )
    rows = {row.engine: row for row in read_manifest(path).parity}
    assert rows["aotinductor"].engine_ran
    assert rows["aotinductor"].passed
    assert rows["simulation"].passed


def test_a_fixed_batch_and_a_fixed_length(tmp_path: Path) -> None:
    source = load_source("demo", None)
    tower = text_tower(source.model)
    example = example_input(tower, source.preprocess.size, 9)
    fixed = TextLength(keep="fixed", extra=0, min=9, max=9)
    program = torch.export.load(save_program(tower, example, fixed, ProgramPlan(tmp_path, rows=4, most=1)))
    (entry,) = program.example_inputs[0]
    assert tuple(entry.shape) == (1, 9)
    assert not program.range_constraints
