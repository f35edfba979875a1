"""Checkpoints as training leaves them: pickled objects around the weights, other image sizes, colours."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from made_checkpoints import (
    TEXT,
    TINY,
    VISION,
    Weights,
    assert_equal,
    command_in,
    load,
    make_model,
    prefixed,
    run_line,
    run_line_here,
    weights_of,
)
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from exporter.convert_checkpoint import convert_checkpoint, main
from exporter.errors import ExportError
from exporter.source.loading import load_source
from exporter.weights.checkpoint_reading import read_checkpoint
from exporter.weights.checkpoints import load_weights

pytestmark = pytest.mark.usefixtures("architectures")


class TestPickledObjects:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_settings_beside_the_weights_need_no_conversion(
        self, zipped: bool, weights: Weights, tmp_path: Path
    ) -> None:
        file = tmp_path / "epoch.pt"
        content = {
            "state_dict": weights,
            "args": argparse.Namespace(lr=1e-3, root=Path("/data"), nested=argparse.Namespace(a=[1, {"b": 2}])),
            "top1": np.float64(0.5),
            "steps": np.arange(3),
            "names": np.array(["a", None], dtype=object),
            "when": datetime.datetime(2026, 1, 2),
            "torch": torch.__version__,
        }
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        loaded, notes = load(file)
        assert_equal(loaded, weights)
        assert not notes

    @pytest.mark.parametrize("zipped", [True, False])
    def test_numpys_own_pickles_run_nothing(self, zipped: bool, weights: Weights, tmp_path: Path) -> None:
        """A numpy scalar of dtype object is a pickle inside the pickle, which older versions load without any limits."""
        import pickle

        class Payload:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "ran"),)

        class Scalar:
            def __reduce__(self) -> Any:
                return np.float64(1).__reduce__()[0], (np.dtype(object), pickle.dumps(Payload()))

        file = tmp_path / "weights.pt"
        torch.save({"state_dict": weights, "top1": Scalar()}, file, _use_new_zipfile_serialization=zipped)
        assert_equal(load(file)[0], weights)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
    )
    @pytest.mark.parametrize("kind", ["module", "module in a mapping", "lightning", "protocol 4", "program"])
    def test_the_printed_line_makes_a_file_that_loads(
        self, kind: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / f"settings_{os.getpid()}.py").write_text("class Settings(dict):\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path / "code")
        settings_class = __import__(f"settings_{os.getpid()}").Settings
        model = make_model().eval()
        file = tmp_path / 'it\'s my "best" $HOME run;.pth'
        if kind == "program":
            images, ids = torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long)
            torch.jit.save(torch.jit.trace(model, (images, ids), strict=False, check_trace=False), file)
        elif kind == "protocol 4":
            torch.save({"state_dict": weights, "note": {"a", "b"}}, file, pickle_protocol=4)
        else:
            lightning = {
                "state_dict": {**prefixed(weights, "model."), "loss.scale": torch.ones(1)},
                "hyper_parameters": settings_class(lr=np.float32(1), root=tmp_path, args=argparse.Namespace(a=1)),
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
                "loops": {"fit_loop": {"state_dict": {}}},
            }
            kinds = {"module": model, "module in a mapping": {"epoch": 3, "model": model}, "lightning": lightning}
            torch.save(kinds[kind], file)
        with pytest.raises(ExportError) as error:
            read_checkpoint(file)
        assert "\n" not in str(error.value)
        line = command_in(str(error.value))
        if kind == "lightning":  # has a class that Python itself finds where the caller says
            ran = run_line(line, tmp_path, tmp_path / "code")
            assert ran.returncode == 0, ran.stderr
        else:
            assert run_line_here(line, tmp_path) == 0
        assert_equal(load(file.with_suffix(".safetensors"))[0], weights)

    def test_a_path_that_looks_like_an_option_and_a_folder_of_open_clips_format(
        self, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"model": make_model()}, "-x.pt")
        with pytest.raises(ExportError) as error:
            read_checkpoint(Path("-x.pt"))
        assert run_line_here(command_in(str(error.value)), tmp_path) == 0
        assert_equal(load(Path("-x.safetensors"))[0], weights)
        (tmp_path / "clip").mkdir()
        (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
        (tmp_path / "-x.pt").rename(tmp_path / "clip" / "pytorch_model.bin")
        with pytest.raises(ExportError) as error:
            load_source("local-dir:clip", with_tokenizer=False)
        assert run_line_here(command_in(str(error.value)), tmp_path) == 0
        assert_equal(dict(load_source("local-dir:clip", with_tokenizer=False).model.state_dict()), weights)

    def test_the_command_runs_no_code_unless_told(self, weights: Weights, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "ran"),)

        file, out = tmp_path / "evil.pt", tmp_path / "out.safetensors"
        torch.save({"state_dict": weights, "payload": Payload()}, file)
        with pytest.raises(ExportError, match=r"holds posix\.mkdir"):
            convert_checkpoint(file, out)
        assert not (tmp_path / "ran").exists()
        assert not out.exists()
        assert convert_checkpoint(file, out, trust=True).written == len(weights)
        assert (tmp_path / "ran").exists()

    def test_faults_of_the_conversion(
        self, weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, out = tmp_path / "a.pt", tmp_path / "out.safetensors"
        torch.save({"state_dict": weights, "sparse": torch.eye(2).to_sparse()}, file)
        cases: list[tuple[list[str], str]] = [
            ([str(file), str(tmp_path / "out.pt")], "does not end in .safetensors"),
            ([str(file), str(out), "--part", "ema"], "no part 'ema'; its names start with sparse, state_dict"),
            ([str(file), str(out)], "sparse of .* is sparse; only plain tensors"),
            ([str(file), str(tmp_path / "none" / "out.safetensors"), "--part=state_dict"], "cannot be written"),
            ([str(tmp_path / "b.pt"), str(out)], "no such checkpoint"),
        ]
        for arguments, message in cases:
            assert main(arguments) == 1
            error = capsys.readouterr().err
            assert re.search(message, error), error
            assert error.count("\n") == 1
        assert main([str(file), str(out), "--part", "state_dict"]) == 0
        assert set(load_file(out)) == set(weights)
        assert main([str(file), str(out), "--part", "state_dict"]) == 1
        assert "is there already" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "out.safetensors"]

    def test_a_class_that_cannot_be_imported_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "gone_away.py").write_text("class Settings:\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        torch.save({"a": __import__("gone_away").Settings()}, tmp_path / "a.pt")
        monkeypatch.undo()
        monkeypatch.delitem(sys.modules, "gone_away")
        with pytest.raises(ExportError, match=r"No module named 'gone_away'.*PYTHONPATH"):
            convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.safetensors", trust=True)

    def test_shared_and_strided_tensors_are_written_whole(self, tmp_path: Path) -> None:
        whole = torch.arange(12.0).view(3, 4)
        torch.save({"a": whole, "b": whole, "c": whole[1], "d": whole.T}, tmp_path / "a.pt")
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.safetensors")
        expected = {"a": whole, "b": whole, "c": whole[1], "d": whole.T}
        assert_equal(load_file(tmp_path / "b.safetensors"), expected)


# Each size and each dtype; the rounding of one has nothing to do with the other.
FAST = {
    ("check-large", torch.float16),
    ("check-small", torch.bfloat16),
    ("check-wide", torch.float32),
    ("check-short-text", torch.float16),
}
RESIZED = [
    pytest.param(name, dtype, marks=() if (name, dtype) in FAST else pytest.mark.slow)
    for name in ("check-large", "check-small", "check-wide", "check-short-text")
    for dtype in (torch.float16, torch.bfloat16, torch.float32)
]


class TestImageSizes:
    @pytest.mark.parametrize(("name", "dtype"), RESIZED)
    def test_positions_are_open_clips_in_float32(
        self, name: str, dtype: torch.dtype, weights: Weights, tmp_path: Path
    ) -> None:
        rounded = {key: tensor.to(dtype) for key, tensor in weights.items()}
        save_file(rounded, tmp_path / "rounded.safetensors")
        save_file({key: tensor.float() for key, tensor in rounded.items()}, tmp_path / "wide.safetensors")
        loaded, (note,) = load(tmp_path / "rounded.safetensors", name)
        expected = open_clip.create_model(name, pretrained=str(tmp_path / "wide.safetensors"))
        assert_equal(loaded, dict(expected.state_dict()))
        assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
        assert re.search(rf"positional_embedding was interpolated from \d+ to \d+ positions to fit {name}", note)

    def test_half_precision_models(self, weights: Weights, tmp_path: Path) -> None:
        save_file({key: tensor.half() for key, tensor in weights.items()}, tmp_path / "half.safetensors")
        model = open_clip.create_model("check-large")
        load_weights(model, read_checkpoint(tmp_path / "half.safetensors"), tmp_path, "check-large", torch.float16)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float16}

    @pytest.mark.parametrize(
        ("names", "dtype"),
        [
            (("check-resnet", "check-resnet-large"), torch.float16),
            (("check-resnet-large", "check-resnet"), torch.float32),
            pytest.param(("check-resnet", "check-resnet-large"), torch.float32, marks=pytest.mark.slow),
            pytest.param(("check-resnet-large", "check-resnet"), torch.float16, marks=pytest.mark.slow),
        ],
    )
    def test_resnets_attention_pooling_is_resized_as_vits_table(
        self, names: tuple[str, str], dtype: torch.dtype, tmp_path: Path
    ) -> None:
        before, after = names
        small = {key: tensor.to(dtype) for key, tensor in weights_of(make_model(before)).items()}
        save_file(small, tmp_path / "a.safetensors")
        loaded, (note,) = load(tmp_path / "a.safetensors", after)
        assert "visual.attnpool.positional_embedding was interpolated" in note
        table = small["visual.attnpool.positional_embedding"].float()
        side, wanted = (2, 3) if before == "check-resnet" else (3, 2)
        grid = table[1:].T.view(1, -1, side, side)
        grid = nn.functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", antialias=True)
        expected = torch.cat([table[:1], grid.flatten(2)[0].T])
        torch.testing.assert_close(loaded["visual.attnpool.positional_embedding"], expected, rtol=0, atol=1e-6)

    def test_positions_of_pictures_that_are_not_square(self, tmp_path: Path) -> None:
        save_file(weights_of(make_model("check-wide")), tmp_path / "wide.safetensors")
        assert load(tmp_path / "wide.safetensors", "check-wide")[1] == ()
        with pytest.raises(ExportError, match=r"has 33 positions.*interpolated to the 17 of the model"):
            load(tmp_path / "wide.safetensors", "check-tiny")

    def test_tables_of_another_width(self, weights: Weights, tmp_path: Path) -> None:
        for name, table in (
            ("positional_embedding", torch.ones(16, 33)),
            ("visual.positional_embedding", torch.ones(3)),
        ):
            save_file({**weights, name: table}, tmp_path / "a.safetensors")
            with pytest.raises(ExportError, match=rf"differs in size \({name}"):
                load(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("size", [[32, 64], [64, 32], [16, 24], 64])
    def test_folders_at_another_size_embed_as_open_clip_does(self, size: Any, weights: Weights, tmp_path: Path) -> None:
        config = {**TINY, "vision_cfg": {**VISION, "image_size": size}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        half = {key: tensor.half() for key, tensor in weights.items()}
        torch.save({"state_dict": prefixed(half, "module.")}, tmp_path / "epoch.pt")
        source = load_source(f"local-dir:{tmp_path}", with_tokenizer=False)
        height, width = source.preprocess.size
        assert [height, width] == ([size, size] if isinstance(size, int) else size)
        (tmp_path / "epoch.pt").unlink()
        save_file({key: tensor.float() for key, tensor in half.items()}, tmp_path / "open_clip_model.safetensors")
        theirs: Any = open_clip.create_model(f"local-dir:{tmp_path}").eval()
        ours: Any = source.model
        images = torch.linspace(-2, 2, 2 * 3 * height * width).sin().view(2, 3, height, width)
        with torch.no_grad():
            torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images))
        assert_equal(ours.state_dict(), theirs.state_dict())

    def test_timms_towers_have_one_size_in_open_clip_itself(self, tmp_path: Path) -> None:
        """No table to resize: open_clip builds them at timm's own size whatever the configuration says."""
        vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 112}
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}
        (tmp_path / "check-timm.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / "check-timm.json")
        model: Any = open_clip.create_model("check-timm")
        assert model.visual.trunk.pos_embed.shape == (1, 197, 192)
        with pytest.raises(AssertionError, match="doesn't match model"):
            model.encode_image(torch.zeros(1, 3, 112, 112))


class TestFillColor:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, 0),
            (7, 7),
            (7.9, 7),
            (300, 255),
            ([9, 9, 9], 9),
            ([4], 4),
            ([1, 2, 3], (1, 2, 3)),
            ([255.0, 0.5, -3], (255, 0, 0)),
        ],
    )
    def test_colors_are_the_ones_that_open_clip_pads_with(
        self, value: Any, expected: int | tuple[int, int, int], tmp_path: Path
    ) -> None:
        preprocess = {"resize_mode": "longest", "fill_color": value, "mean": [0, 0, 0], "std": [1, 1, 1]}
        config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        source = load_source(f"local-dir:{tmp_path}", "none", with_tokenizer=False)
        assert source.preprocess.fill_color == expected
        transform: Any = image_transform_v2(PreprocessCfg(size=8, **preprocess), is_train=False)
        padding = (transform(Image.new("RGB", (20, 8), (50, 60, 70)))[:, 0, 0] * 255).round().int().tolist()
        assert padding == ([expected] * 3 if isinstance(expected, int) else list(expected))

    @pytest.mark.parametrize("value", ["red", [1, 2], [1, 2, 3, 4], ["1", 2, 3], [], {"r": 1}, float("nan")])
    def test_what_is_no_color(self, value: Any, tmp_path: Path) -> None:
        config = {"model_cfg": TINY, "preprocess_cfg": {"resize_mode": "longest", "fill_color": value}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(ExportError, match=r"fill_color .* neither a number nor three of them"):
            load_source(f"local-dir:{tmp_path}", "none", with_tokenizer=False)
