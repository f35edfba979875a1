"""What a user may ask of TensorRT engines, and what a bundle says about those it got."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engines
from engines import errors
from engines.__main__ import main as engines_main
from engines.device.gpu import gpu_missing
from engines.manifest import Range, Tensor, TextLength, Tower, read_manifest
from engines.runtimes.choice import candidates
from engines.verification.embeddings import verify_bundle
from exporter.__main__ import main
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions, parse_batches, parse_bytes
from exporter.pipeline import export
from exporter.tensorrt.flavours import check_flavour
from exporter.tensorrt.profiles import input_shapes, make_profiles, whole_range

no_gpu = pytest.mark.skipif(gpu_missing() is None, reason="there is a GPU")


class TestOptions:
    @pytest.mark.parametrize(
        ("texts", "expected"),
        [(["1:1:8"], [(1, 1, 8)]), (["64"], [(64, 64, 64)]), (["1:1:8", "16:64:256"], [(1, 1, 8), (16, 64, 256)])],
    )
    def test_batches(self, texts: list[str], expected: list[tuple[int, int, int]]) -> None:
        assert parse_batches(texts) == tuple(Range(min=a, opt=b, max=c) for a, b, c in expected)

    @pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "1:2:3:4", "-1:2:3", "1.5"])
    def test_what_is_no_batch(self, text: str) -> None:
        with pytest.raises(ExportError, match="is not MIN:OPT:MAX"):
            parse_batches([text])

    @pytest.mark.parametrize("text", ["8:4:16", "0:1:2", "1:32:16", "0"])
    def test_profiles_that_are_not_ordered(self, text: str) -> None:
        with pytest.raises(ExportError, match="is not ordered"):
            EngineOptions(batches=parse_batches([text]))

    def test_what_is_given_twice(self) -> None:
        with pytest.raises(ExportError, match="target sm80 was given twice"):
            EngineOptions(targets=("sm80", "sm89", "sm80"))
        with pytest.raises(ExportError, match="batch profile was given twice"):
            EngineOptions(batches=parse_batches(["8", "8:8:8"]))

    @pytest.mark.parametrize(
        ("text", "expected"), [("4GiB", 4 << 30), ("512 mib", 512 << 20), ("1.5GB", 1_500_000_000), ("42", 42)]
    )
    def test_bytes(self, text: str, expected: int) -> None:
        assert parse_bytes(text) == expected

    @pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "4 apples", "nan", "inf", "1e30GiB"])
    def test_what_is_no_amount(self, text: str) -> None:
        with pytest.raises(ExportError, match="no amount of memory"):
            parse_bytes(text)

    @pytest.mark.parametrize("options", [{"workspace": 100}, {"optimization_level": 6}, {"hardware_compatible": "all"}])
    def test_out_of_range(self, options: dict[str, Any]) -> None:
        with pytest.raises(ExportError):
            EngineOptions(**options)


class TestProfiles:
    IMAGE = Tower(
        graph="image.onnx",
        input=Tensor(name="pixels", dtype="uint8", shape=("N", 224, 224, 3)),
        output=Tensor(name="image_embeds", dtype="float32", shape=("N", 512)),
    )

    @given(
        batches=st.lists(
            st.tuples(*[st.integers(1, 512)] * 3).map(
                lambda sizes: Range(**dict(zip(("min", "opt", "max"), sorted(sizes), strict=True)))
            ),
            min_size=1,
            max_size=3,
        ),
        shortest=st.integers(2, 77),
        fixed=st.booleans(),
    )
    def test_shapes_are_ordered_and_within_the_tower(self, batches: list[Range], shortest: int, fixed: bool) -> None:
        length = TextLength(keep="fixed" if fixed else "end", extra=0, min=shortest, max=77)
        tower = Tower(
            graph="text.onnx",
            input=Tensor(name="ids", dtype="int32", shape=("N", 77 if fixed else "L")),
            output=Tensor(name="text_embeds", dtype="float32", shape=("N", 512)),
            length=length,
        )
        profiles = make_profiles(tower, batches)
        for profile, batch in zip(profiles, batches, strict=True):
            low, best, high = input_shapes(tower, profile)
            assert (low[0], best[0], high[0]) == (batch.min, batch.opt, batch.max)
            assert shortest <= low[1] <= best[1] <= high[1] == 77 or fixed
        whole = whole_range(profiles)
        assert whole.min == min(batch.min for batch in batches)
        assert whole.max == max(batch.max for batch in batches)

    def test_more_than_a_tensor_can_hold(self) -> None:
        with pytest.raises(ExportError, match="pass --batch with at most 14266"):
            make_profiles(self.IMAGE, [Range(min=1, opt=1, max=20_000)])
        assert make_profiles(self.IMAGE, [Range(min=1, opt=1, max=14_266)])


class TestFlavours:
    def test_unknown_target(self) -> None:
        with pytest.raises(ExportError, match=r"builds for no target 'sm90': choose from sm75, sm80"):
            check_flavour("tensorrt-rtx", EngineOptions(targets=("sm90",)))

    @no_gpu
    def test_no_target_without_a_gpu(self) -> None:
        with pytest.raises(ExportError, match="needs a --target here, for this machine has no NVIDIA driver"):
            check_flavour("tensorrt-rtx", EngineOptions())
        with pytest.raises(ExportError, match="needs a --target here"):
            check_flavour("tensorrt-rtx", EngineOptions(targets=("sm80", "current")))

    def test_options_that_a_flavour_lacks(self) -> None:
        with pytest.raises(ExportError, match="has no --version-compatible"):
            check_flavour("tensorrt-rtx", EngineOptions(targets=("sm80",), version_compatible=True))
        with pytest.raises(ExportError, match="has no --timing-cache"):
            check_flavour("tensorrt-rtx", EngineOptions(targets=("sm80",), timing_cache=Path("x")))

    @no_gpu
    def test_stripping_needs_a_gpu(self) -> None:
        with pytest.raises(ExportError, match="takes --strip-weights only beside a GPU"):
            check_flavour("tensorrt-rtx", EngineOptions(targets=("sm80",), strip_weights=True))


class TestCommandLine:
    """In this process; test_broken_at_export.py has the command line's exit code of a process of its own."""

    @no_gpu
    def test_tensorrt_without_it_is_one_sentence(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--engine", "tensorrt", "--out", str(tmp_path / "b")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: engine tensorrt is built on the GPU it is for, and this machine has no ")
        assert "--engine tensorrt-rtx --target sm80" in said
        assert len(said.strip().splitlines()) == 1
        assert not (tmp_path / "b").exists()

    @no_gpu
    def test_the_rest_is_still_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "b"
        asked = ("--engine", "tensorrt", "--engine", "onnxruntime", "--towers", "text", "--parity-samples", "4")
        assert main(["demo", *asked, "--out", str(out)]) == 1, "an engine that was named is missing"
        said = capsys.readouterr()
        assert "left out: engine tensorrt " in said.err
        assert said.err.splitlines()[-1].startswith(f"error: {out} was written without tensorrt (engine tensorrt ")
        assert said.out.startswith(f"{out} ")
        assert {engine.kind for engine in read_manifest(out).engines} == {"onnxruntime"}

    def test_options_that_no_engine_takes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--engine", "onnxruntime", "--batch", "1:2:4", "--out", str(tmp_path / "b")]) == 1
        assert "onnxruntime takes none" in capsys.readouterr().err

    def test_wrong_options_before_anything_slow(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--engine", "tensorrt-rtx", "--target", "sm80", "--batch", "8:4:2"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "is not ordered" in said.err


class TestBundle:
    def test_manifest(self, rtx_bundle: Path) -> None:
        manifest = read_manifest(rtx_bundle)
        built = [engine for engine in manifest.engines if engine.kind == "tensorrt-rtx"]
        assert {(engine.tower, engine.target.device) for engine in built} == {
            (tower, target) for tower in ("image", "text") for target in ("sm80", "sm89")
        }
        for engine in built:
            assert engine.file in manifest.files
            assert engine.build is not None
            assert engine.build.seconds > 0
            assert engine.build.layers["ATTENTION_INPUT"]
            assert engine.batch.max == 128
            assert (engine.profiles[0].length is None) == (engine.tower == "image")
        report = json.loads((rtx_bundle / "report.json").read_text())
        stage = next(row for row in report["stages"] if row["stage"] == "build tensorrt-rtx sm80, image")
        assert {"bytes", "build_seconds", "build_peak_memory_bytes", "fused_attention"} <= set(stage)

    @no_gpu
    def test_the_gate_says_what_ran(self, rtx_bundle: Path) -> None:
        rows = {row.engine: row for row in read_manifest(rtx_bundle).parity}
        assert not rows["tensorrt-rtx"].engine_ran
        assert rows["tensorrt-rtx"].verified_with.endswith("CPUExecutionProvider on the same graph")
        assert rows["onnxruntime"].engine_ran

    @no_gpu
    @pytest.mark.parametrize("on_gpu", [False, True])
    def test_a_graph_that_stands_in_runs_once_on_the_cpu(
        self, on_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run on a GPU is not taken for the engine's own, whatever its description says, because it allows nodes on the CPU."""
        from exporter.gate import gate

        files: list[str] = []

        def counted(*args: Any, **options: Any) -> Any:
            files.append(args[1].file)
            ran = run_engine(*args, **options)
            assert not ran.on_gpu
            assert ran.description.endswith(" CPUExecutionProvider")
            return ran._replace(on_gpu=on_gpu)

        run_engine = gate.run_engine
        monkeypatch.setattr(gate, "run_engine", counted)
        path = export(
            "demo",
            engines=("tensorrt-rtx", "onnxruntime"),
            towers=("image",),
            out=tmp_path / "out",
            engine_options=EngineOptions(targets=("sm80",)),
        )
        assert files == ["image.onnx"] * (2 if on_gpu else 1)
        stood_in, own = read_manifest(path).parity
        assert (stood_in.engine_ran, own.engine_ran) == (False, True)
        assert stood_in.towers == own.towers
        assert stood_in.verified_with == f"{own.verified_with} on the same graph"

    @no_gpu
    def test_auto_takes_what_runs_here_and_says_why(self, rtx_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
        with engines.load(rtx_bundle) as clip:
            assert clip.engines["image"].startswith("onnxruntime")
        said = [record.getMessage() for record in caplog.records if record.name == "engines"]
        assert said[0] == (
            f"the image tower of {rtx_bundle} runs on onnxruntime; not on "
            "tensorrt-rtx sm80: this machine has no NVIDIA driver; tensorrt-rtx sm89: this machine has no NVIDIA driver"
        )
        caplog.clear()
        with engines.load(rtx_bundle, engine="onnxruntime"):  # who names an engine need not be told
            assert not [record for record in caplog.records if record.name == "engines"]
        with pytest.raises(errors.EngineUnavailableError, match=r"tensorrt-rtx sm80: .*; tensorrt-rtx sm89: "):
            engines.load(rtx_bundle, engine="tensorrt-rtx")
        reasons = [item.why_not for item in candidates(rtx_bundle, read_manifest(rtx_bundle), "image")]
        assert reasons == ["this machine has no NVIDIA driver"] * 2 + [None]

    def test_a_missing_engine_costs_only_itself(self, rtx_bundle: Path) -> None:
        manifest = read_manifest(rtx_bundle)
        lost = next(engine for engine in manifest.engines if engine.target.device == "sm80")
        (rtx_bundle / lost.file).unlink()
        with engines.load(rtx_bundle, device="cpu") as clip:
            assert clip.encode_text(["a red circle"]).shape == (1, 64)
        found = {item.engine.file: item.why_not for item in candidates(rtx_bundle, manifest, lost.tower)}
        assert found[lost.file] == f"{lost.file} is missing"
        with pytest.raises(errors.BundleError, match="is missing"):
            verify_bundle(rtx_bundle)

    @no_gpu
    def test_inspect(self, rtx_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert engines_main(["inspect", str(rtx_bundle)]) == 0
        said = capsys.readouterr().out
        for target in ("sm80", "sm89"):
            assert f"{target}  1:32:128" in said
        assert "no: this machine has no NVIDIA driver" in said

    @no_gpu
    def test_verify_runs_the_engine_that_can(self, rtx_bundle: Path) -> None:
        (row,) = verify_bundle(rtx_bundle)
        assert row.passed
        assert row.engine == "onnxruntime"
