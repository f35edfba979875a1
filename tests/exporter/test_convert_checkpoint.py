"""python -m exporter.convert_checkpoint: what it leaves out, refuses and prints; and that printed lines take effect."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_checkpoints import TINY, Weights, assert_equal, load, prefixed
from safetensors.torch import load_file, save_file

from exporter.convert_checkpoint import convert_checkpoint, main
from exporter.errors import ExportError
from exporter.source.loading import load_source
from exporter.weights.checkpoint_files import CONFIG_NAME, FOLDER_PREFIX
from exporter.weights.checkpoint_names import is_of_optimizer

KEYS_OF_OPTIMIZERS = [
    "optimizer",
    "optimizers",
    "optim",
    "optimizer_state",
    "optimizer_states",
    "optimizer_state_dict",
    "optim_state",
    "optim_state_dict",
    "opt_state",
    "opt_state_dict",
    "last_optimizer_state",
    "optimizer_0",
    "optimizer1",
    "optimizerG",
    "optimizer_G",
    "optim_d",
    "g_optim",
    "text_optimizer",
    "Optimizer",
    "optimizer_history",
    "optimizer_state_dicts",
]


pytestmark = pytest.mark.usefixtures("architectures")


def follow(advice: str) -> tuple[str, str | None]:
    """Do what a message says, here and not in a shell; MODEL and --pretrained of the next export."""
    (line, argument, option) = re.findall(r"`(.*?)` and pass (\S+) as (MODEL|--pretrained)", advice)[0]
    for command in line.split(" && "):
        words = shlex.split(command)
        if words[0] == "mv":
            shutil.move(*words[1:])
        else:
            assert words[:3] == ["python", "-m", "exporter.convert_checkpoint"]
            assert main(words[3:]) == 0
    return (argument, None) if option == "MODEL" else ("check-tiny", argument)


class TestOptimizers:
    @pytest.mark.parametrize("key", ["optimized_clip", "optim_clip", "my_optimizedclip", "opt_125m", "opt"])
    def test_a_model_whose_name_begins_alike_is_kept(self, key: str, weights: Weights, tmp_path: Path) -> None:
        file, out = tmp_path / "a.pt", tmp_path / "out.safetensors"
        torch.save({"state_dict": prefixed(weights, f"{key}."), "loss": {"t": torch.ones(1)}}, file)
        converted = convert_checkpoint(file, out)
        assert (converted.written, converted.left_out) == (len(weights) + 1, ())
        assert_equal(load(out)[0], weights)

    @pytest.mark.parametrize("key", KEYS_OF_OPTIMIZERS)
    def test_the_state_of_an_optimizer_is_left_out_and_that_is_said(
        self, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, out = tmp_path / "a.pt", tmp_path / "out.safetensors"
        torch.save({"model": {"a": torch.ones(2, 2)}, key: {"state": {"a": {"exp_avg": torch.ones(2, 2)}}}}, file)
        assert main([str(file), str(out)]) == 0
        assert set(load_file(out)) == {"model.a"}
        text = f"{out}: 1 tensors (1 of an optimizer were left out, as {key}.state.a.exp_avg)\n"
        assert capsys.readouterr().out == text

    def test_the_only_model_is_written_whatever_it_is_called(self, weights: Weights, tmp_path: Path) -> None:
        file, out = tmp_path / "a.pt", tmp_path / "out.safetensors"
        torch.save({"optimizer": weights, "loss": {"t": torch.ones(1)}}, file)
        assert convert_checkpoint(file, out).written == len(weights) + 1
        assert_equal(load(out)[0], weights)

    def test_names_of_models(self) -> None:
        for key in ("optimized", "optical", "optimus", "adopt", "opt_model", "optimal_clip", "clip"):
            assert not is_of_optimizer(f"state_dict.{key}.visual.proj"), key
        assert not is_of_optimizer("state_dict.optimizer")  # the name of a tensor, not a key around it

    def test_averages_of_an_optimizer_are_no_model(self, weights: Weights, others: Weights, tmp_path: Path) -> None:
        torch.save({"clip": weights, "optimizer_state": {"exp_avg": others}}, tmp_path / "a.pt")
        loaded, notes = load(tmp_path / "a.pt")
        assert_equal(loaded, weights)
        assert notes == ()


class TestPrintedLines:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "my-clip"
        folder.mkdir()
        (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": TINY}))
        return folder

    @pytest.mark.parametrize("name", ["open_clip_model.safetensors", "model.safetensors", "epoch.pt"])
    def test_one_of_several_models_in_a_folder(
        self, name: str, folder: Path, weights: Weights, others: Weights
    ) -> None:
        content = {**prefixed(weights, "student."), **prefixed(others, "teacher.")}
        (torch.save if name.endswith(".pt") else save_file)(content, folder / name)
        with pytest.raises(ExportError, match="several models") as error:
            load_source(f"{FOLDER_PREFIX}{folder}", with_tokenizer=False)
        assert "\n" not in str(error.value)
        model, _ = follow(str(error.value))
        source = load_source(model, with_tokenizer=False)
        assert_equal(dict(source.model.state_dict()), weights)
        whole = [
            path for path in folder.iterdir() if path.suffix in (".pt", ".safetensors") and path.stat().st_size > 1e6
        ]
        assert len(whole) == 1, "the file of both is kept"

    def test_averages_in_a_folder(self, folder: Path, weights: Weights, others: Weights) -> None:
        content = {**prefixed(weights, "model."), **prefixed(others, "model_ema.")}
        save_file(content, folder / "open_clip_model.safetensors")
        source = load_source(f"{FOLDER_PREFIX}{folder}", with_tokenizer=False)
        assert_equal(dict(source.model.state_dict()), weights)
        model, _ = follow(source.notes[-1])
        source = load_source(model, with_tokenizer=False)
        assert_equal(dict(source.model.state_dict()), others)
        assert len(source.notes) == 1

    @pytest.mark.parametrize(
        ("outer", "inner", "more"), [("", "module.", []), ("a.", "a.module.", []), ("", "net.", ["n_averaged"])]
    )
    def test_a_model_around_another_one(
        self, outer: str, inner: str, more: list[str], weights: Weights, others: Weights, tmp_path: Path
    ) -> None:
        """--part alone cannot name the outer one without the inner one, so the line leaves that out."""
        content = {**prefixed(weights, outer), **prefixed(others, inner), **dict.fromkeys(more, torch.tensor(2))}
        torch.save(content, tmp_path / "a.pt")
        if more:  # the count says that the outer one holds averages, so the inner one is loaded
            loaded, (advice,) = load(tmp_path / "a.pt")
            assert_equal(loaded, others)
        else:
            with pytest.raises(ExportError, match="several models") as error:
                load(tmp_path / "a.pt")
            advice = str(error.value)
        _, path = follow(advice)
        assert path is not None
        assert_equal(load(Path(path))[0], weights)

    def test_a_line_that_was_followed_before_has_another_file(
        self, weights: Weights, others: Weights, tmp_path: Path
    ) -> None:
        file = tmp_path / "a.pt"
        torch.save({"student": weights, "teacher": others}, file)
        paths = []
        for _ in range(3):
            with pytest.raises(ExportError, match="several models") as error:
                load(file)
            paths.append(follow(str(error.value))[1])
        names = ["a-student", "a-student-converted", "a-student-converted2"]
        assert paths == [str(tmp_path / f"{name}.safetensors") for name in names]


class TestCommand:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"a": torch.ones(2, dtype=torch.complex128)}, r"a of .* is of type complex128; only plain tensors"),
            ({"a": torch.ones(2, device="meta")}, r"a of .* is without values \(it was saved from the meta device\)"),
            ({"a": torch.eye(2).to_sparse()}, r"a of .* is sparse"),
            ({"a\udcff": torch.ones(1)}, r"a tensor named 'a\\udcff', which no \.safetensors file can hold"),
            ({"__metadata__": torch.ones(1), "b": torch.ones(1)}, "a tensor named '__metadata__', which no"),
            ({"\x1b]0;pwned\x07": {"b": torch.ones(1).to_sparse()}}, r"error: \\x1b\]0;pwned\\x07\.b of"),
        ],
    )
    def test_what_no_safetensors_file_holds(
        self, content: Weights, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save(content, tmp_path / "a.pt")
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]) == 1
        error = capsys.readouterr().err
        assert re.search(said, error), error
        assert error.count("\n") == 1
        assert error[:-1].isprintable()
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]

    def test_names_in_the_answer_and_in_errors_are_safe_for_terminals(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        escape = "\x1b]0;pwned\x07"
        torch.save({"a": torch.eye(2), f"{escape}.optimizer": {"x": torch.eye(2)}}, tmp_path / "a.pt")
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--part=none"]) == 1
        assert r"its names start with a, \x1b]0;pwned\x07" in capsys.readouterr().err
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]) == 0
        assert r"left out, as \x1b]0;pwned\x07.optimizer.x)" in capsys.readouterr().out

    def test_standard_output_that_has_only_ascii(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "é.safetensors")]) == 0
        assert written.getvalue().endswith(b"\\xe9.safetensors: 1 tensors\n")

    def test_parts_that_are_left_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content: Any = {"a": {"b": torch.ones(1), "c": {"d": torch.ones(1)}}, "e": torch.ones(1)}
        torch.save(content, tmp_path / "a.pt")
        for options, names in (
            (["--without=a.c"], {"a.b", "e"}),
            (["--part=a", "--without=a.c"], {"b"}),
            (["--without=a"], {"e"}),
        ):
            assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), *options]) == 0
            assert set(load_file(tmp_path / "b.safetensors")) == names
            (tmp_path / "b.safetensors").unlink()
        capsys.readouterr()
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--part=a.c", "--without=a.c"]) == 1
        assert "has no part 'a.c'" in capsys.readouterr().err
