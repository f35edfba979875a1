"""Packed captions: the packed text tower gives what the padded one gives, its programs, and which targets get them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tower_copies import tower_copy

from engines.manifest import BatchProfile, Build, TextLength
from exporter.aotinductor import tower_programs
from exporter.aotinductor.job import CompileJob, CompileResult
from exporter.aotinductor.program import ProgramPlan, save_packed_program
from exporter.aotinductor.tower_programs import save_programs
from exporter.builders import aotinductor as build_aotinductor
from exporter.graphs.onnx_graph import example_input
from exporter.options.engine_options import EngineOptions, KernelMode
from exporter.precision.precisions import PrecisionPlan, apply_plan
from exporter.source.loading import load_source
from exporter.stages import Stages
from exporter.towers.modules import TextTower, image_tower, text_tower
from exporter.towers.packed_text import PackedAttention, PackedTextTower, packed_text_tower
from kernels.swap import swap

END = TextLength(keep="end", extra=0, min=2, max=77)
LENGTHS = (5, 77, 1, 9, 2)


def captions(lengths: tuple[int, ...] = LENGTHS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of ids (N, 77) with other ids after the end of text, the same ones packed (T,), and where each starts (N + 1,)."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, 900, (len(lengths), 77), dtype=torch.int32, generator=generator)
    for row, length in zip(rows, lengths, strict=True):
        row[length - 1] = 49407
    packed = torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
    return rows, packed, torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def demo_text_tower() -> TextTower:
    return text_tower(load_source("demo", with_tokenizer=False).model)


def packed_demo() -> tuple[TextTower, PackedTextTower]:
    padded = demo_text_tower()
    packed = packed_text_tower(padded, END)
    assert packed is not None
    return padded, packed


class TestTower:
    @pytest.mark.parametrize(
        "architecture",
        [
            "ViT-B-32-quickgelu",
            "EVA02-B-16",  # its model holds the text tower in a place of its own
            # As the first, whose GELU is another function.
            pytest.param("ViT-B-32", marks=pytest.mark.slow),
            pytest.param("RN50", marks=pytest.mark.slow),
        ],
    )
    def test_equals_the_padded_one(self, architecture: str) -> None:
        padded, _ = tower_copy(architecture, "text")
        assert isinstance(padded, TextTower)
        packed = packed_text_tower(padded, END)
        assert packed is not None
        rows, ids, starts = captions()
        with torch.inference_mode():
            expected = padded(rows)
            torch.testing.assert_close(packed(ids, starts), expected, atol=2e-6, rtol=0)
            torch.testing.assert_close(packed(ids[5:82], torch.tensor([0, 77], dtype=torch.int32)), expected[1:2])
            report = swap(packed, "fp32", "triton")
            torch.testing.assert_close(packed(ids, starts), expected, atol=2e-5, rtol=0)
            # They share layers, and only one of them is swapped.
            torch.testing.assert_close(padded(rows), expected, atol=0, rtol=0)
        assert dict(report.swapped) == {
            "packed_attention": 2,
            "linear_gelu": 2,
            "add_layer_norm": 3,
            "l2_normalize": 1,
        }

    @pytest.mark.parametrize(
        ("dtype", "stream"), [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)], ids=str
    )
    def test_dtypes_are_the_padded_one_s(self, dtype: torch.dtype, stream: torch.dtype) -> None:
        padded = demo_text_tower()
        rows, ids, starts = captions()
        with torch.inference_mode():
            exact = padded(rows)
            apply_plan(padded, PrecisionPlan(dtype, stream, {"blocks.1.mlp": "a test"}))
            packed = packed_text_tower(padded, END)
            assert packed is not None
            error = (padded(rows) - exact).abs().max()
            assert 0 < (packed(ids, starts) - exact).abs().max() <= 2 * error

    @pytest.mark.parametrize("architecture", ["coca_ViT-B-32", "roberta-ViT-B-32"])
    def test_towers_that_look_at_padding_are_not_packed(self, architecture: str) -> None:
        tower, _ = tower_copy(architecture, "text")
        assert isinstance(tower, TextTower)
        assert packed_text_tower(tower, END) is None

    @pytest.mark.parametrize(
        "text",
        [
            {"pool_type": "last", "no_causal_mask": True},
            {"pool_type": "argmax", "no_causal_mask": True},
            {"pool_type": "first"},
            {"pool_type": "eos", "eos_id": 49407},  # a row without that id pools its first token
            {"heads": 16},  # of head size 8
        ],
        ids=str,
    )
    def test_other_settings_are_not_packed(self, text: dict[str, Any], tmp_path: Path) -> None:
        import open_clip

        vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}
        packed = {}
        for name, more in (("packed", {}), (f"unpacked-{abs(hash(str(text)))}", text)):
            settings = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 1, **more}
            config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": settings, "custom_text": True}
            (tmp_path / f"{name}.json").write_text(json.dumps(config))
            open_clip.add_model_config(tmp_path / f"{name}.json")
            tower = text_tower(load_source(name, "none", with_tokenizer=False).model)
            packed[name] = packed_text_tower(tower, END) is not None
        assert list(packed.values()) == [True, False]

    def test_nor_without_the_rule(self) -> None:
        padded = demo_text_tower()
        for length in (
            TextLength(keep="padding", extra=0, min=2, max=77),
            TextLength(keep="end", extra=1, min=2, max=77),
            TextLength(keep="fixed", extra=0, min=77, max=77),
        ):
            assert packed_text_tower(padded, length) is None


class TestProgram:
    """The operator is in the program, as in all that the exporter writes: PyTorch 2.11 cannot export the reference."""

    def test_two_dynamic_dimensions(self, tmp_path: Path) -> None:
        padded, packed = packed_demo()
        swap(packed, "fp32", "triton")
        program = torch.export.load(save_packed_program(packed, ProgramPlan(tmp_path, rows=4, most=None)))
        own = [str(n.target) for n in program.graph.nodes if "packed_attention" in str(n.target)]
        assert len(own) == 2
        module = program.module(check_guards=False)
        for lengths in ((3,), (1,), (77, 77), LENGTHS):
            rows, ids, starts = captions(lengths)
            with torch.inference_mode():
                torch.testing.assert_close(module(ids, starts), padded(rows), atol=2e-6, rtol=0)

    # A batch of more than one is bounded in test_sizes_of_a_packed_program_are_bounded, too.
    @pytest.mark.parametrize(
        ("most", "tokens", "starts"), [(1, 77, None), pytest.param(16, 16 * 77, 17, marks=pytest.mark.slow)]
    )
    def test_a_bound_of_the_batch(self, most: int, tokens: int, starts: int | None, tmp_path: Path) -> None:
        _, packed = packed_demo()
        swap(packed, "fp32", "triton")
        program = torch.export.load(save_packed_program(packed, ProgramPlan(tmp_path, rows=4, most=most)))
        upper = sorted(int(bound.upper) for bound in program.range_constraints.values())
        assert upper == ([tokens] if starts is None else [starts, tokens])


def plan(tmp_path: Path, **options: Any) -> ProgramPlan:
    return ProgramPlan(tmp_path, rows=4, most=8, **options)


def programs_of(tower: Any, length: TextLength | None, plan: ProgramPlan) -> tower_programs.TowerPrograms:
    name = "image" if length is None else "text"
    example = example_input(tower, (64, 64), 9)
    return save_programs(name, tower, example, length, "fp32", plan, Stages())  # type: ignore[arg-type]


def win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that packed attention measured faster on sm90, and nothing else did."""
    for module in ("exporter.aotinductor.tower_programs", "kernels.swap"):
        monkeypatch.setattr(
            f"{module}.choose",
            lambda op, arch, dtype, shape, allowed: (
                allowed[0] if (op, arch) == ("packed_attention", "sm90") else "native"
            ),
        )


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are empty files: which of them are written is the question, and `TestProgram` traces them."""
    monkeypatch.setattr("exporter.aotinductor.program._save", lambda tower, inputs, dynamic, path: path.touch())


class TestWhichPrograms:
    @pytest.mark.usefixtures("untraced")
    def test_native_and_what_has_not_won_stay_padded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for options in ({"kernels": "native", "arch": "sm90"}, {"kernels": "auto", "arch": "sm90"}):
            written = programs_of(demo_text_tower(), END, plan(tmp_path, **options))
            assert (written.padded is not None, written.packed) == (True, None)
        win(monkeypatch)
        written = programs_of(demo_text_tower(), END, plan(tmp_path, kernels="auto", arch="cpu"))
        assert (written.padded is not None, written.packed) == (True, None)

    @pytest.mark.usefixtures("untraced")
    def test_a_gpu_that_nothing_was_measured_on_is_named_once(self, tmp_path: Path) -> None:
        stages, example = Stages(), example_input(demo_text_tower(), (64, 64), 9)
        for folder, options in (("a", {}), ("b", {}), ("c", {"kernels": "native"}), ("d", {"arch": "cpu"})):
            (tmp_path / folder).mkdir()
            given = plan(tmp_path / folder, **{"arch": "sm999"} | options)
            save_programs("text", demo_text_tower(), example, END, "fp32", given, stages)
        assert [note.split(",")[0] for note in stages.notes] == ["no kernel was measured on sm999"]

    @pytest.mark.usefixtures("untraced")
    def test_what_has_won_is_packed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        win(monkeypatch)
        written = programs_of(demo_text_tower(), END, plan(tmp_path, arch="sm90"))
        assert (written.padded, written.packed is not None) == (None, True)
        assert dict(written.swapped.swapped) == {"packed_attention": 2}
        both = programs_of(demo_text_tower(), END, plan(tmp_path, arch="sm90", padded_for_cpu=True))
        assert both.padded is not None
        assert both.packed is not None
        assert both.padded != both.packed
        assert dict(both.swapped.swapped) == {"packed_attention": 2}

    def test_sizes_of_a_packed_program_are_bounded(self, tmp_path: Path) -> None:
        """PyTorch 2.11 fails with a KeyError at a slice whose end it cannot compare with the size."""
        unbounded = dataclasses.replace(plan(tmp_path, kernels="triton"), most=None)
        written = programs_of(demo_text_tower(), END, unbounded)
        assert written.packed is not None
        ranges = torch.export.load(written.packed).range_constraints.values()
        assert len(ranges) == 2
        assert all(2**20 < int(found.upper) <= 2**31 for found in ranges)

    @pytest.mark.usefixtures("untraced")
    def test_triton_packs_on_every_target(self, tmp_path: Path) -> None:
        written = programs_of(demo_text_tower(), END, plan(tmp_path, kernels="triton"))
        assert (written.padded, written.packed is not None) == (None, True)
        source = load_source("demo", with_tokenizer=False)
        written = programs_of(image_tower(source.model, source.preprocess), None, plan(tmp_path, kernels="triton"))
        assert (written.padded is not None, written.packed) == (True, None)

    def test_the_plan_says_when_the_cpu_needs_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build_aotinductor, "devices", lambda options: ("sm90", "cpu"))
        modes: tuple[KernelMode, ...] = ("auto", "triton", "native")
        plans = [build_aotinductor.program_plan(EngineOptions(kernels=mode), tmp_path / mode) for mode in modes]
        assert [plan.padded_for_cpu for plan in plans] == [True, False, False]

    @pytest.mark.usefixtures("untraced")
    @pytest.mark.parametrize("kernels", ["auto", "triton"])
    def test_each_target_gets_its_own(
        self, kernels: KernelMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        win(monkeypatch)
        jobs: list[CompileJob] = []

        @contextlib.contextmanager
        def compile_nothing(job: CompileJob) -> Iterator[Callable[[], CompileResult]]:
            """There is no GPU to compile for."""
            jobs.append(job)
            Path(job.package).write_bytes(b"")
            build = Build(seconds=1.0, peak_memory_bytes=1, fused_attention=2, decomposed_attention=0)
            yield lambda: CompileResult(version="2.15.0", build=build)

        monkeypatch.setattr(build_aotinductor, "devices", lambda options: ("sm90", "cpu"))
        monkeypatch.setattr(build_aotinductor, "compiling", compile_nothing)
        options = EngineOptions(kernels=kernels)
        written = programs_of(demo_text_tower(), END, build_aotinductor.program_plan(options, tmp_path / "programs"))
        item: Any = type("Item", (), {"name": "text", "programs": written})
        built = build_aotinductor.build("aotinductor", [item], tmp_path, options, Stages())
        assert [job.program for job in jobs] == [str(written.packed), str(written.padded or written.packed)]
        second = "padded" if kernels == "auto" else "packed"
        assert [engine.input_layout for engine in built.engines] == ["packed", second]
        names = ["text-packed-sm90.pt2", "text-cpu.pt2" if kernels == "auto" else "text-packed-cpu.pt2"]
        assert [Path(engine.file).name for engine in built.engines] == names
        assert built.engines[1].batch == BatchProfile(min=1, opt=options.batches[0].opt, max=None)


def test_packed_attention_in_the_tower_is_found_by_its_class() -> None:
    _, packed = packed_demo()
    assert sum(isinstance(module, PackedAttention) for module in packed.modules()) == 2
