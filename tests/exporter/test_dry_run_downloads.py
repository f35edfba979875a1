"""--dry-run without what the hub has: the files that a tokenizer needs, HF_HUB_OFFLINE, and the last line of the plan."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_sources import registered_tag

from exporter.__main__ import main
from exporter.errors import DownloadError, ExportError
from exporter.options.export_options import Options
from exporter.planning.plan import Plan, make_plan
from exporter.source.loading import load_tokenizer
from exporter.source.origins import resolve_origin

ROOT = Path(__file__).resolve().parents[2]
MODEL, REPOSITORY = "ViT-L-14-CLIPA", "bert-base-uncased"
COMMIT = "a" * 40
ALL = ("config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of BERT's tokenizer in a repository, with a vocabulary of eight entries, also in the older format."""
    from transformers import BertConfig, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nred\ncircle\n")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nred\ncircle\n")
    BertConfig().save_pretrained(folder)
    return folder


@pytest.fixture
def no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def refuse(*_: Any) -> None:
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def filled_cache(place: Path, repository: Path, names: tuple[str, ...]) -> Path:
    """A cache of the hub's client that has some files of the repository."""
    model = place / f"models--{REPOSITORY}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    for name in names:
        shutil.copyfile(repository / name, model / "snapshots" / COMMIT / name)
    return place


def plan(cache: Path, **options: Any) -> Plan:
    return make_plan(Options(MODEL, pretrained="none", engines=("onnxruntime",), cache_dir=cache, **options))


@pytest.mark.usefixtures("no_connection")
@pytest.mark.parametrize("names", [ALL, ("config.json", "tokenizer.json"), ("config.json", "vocab.txt")])
def test_a_tokenizer_whose_files_are_in_the_cache_is_no_download(
    names: tuple[str, ...], repository: Path, tmp_path: Path
) -> None:
    cache = filled_cache(tmp_path / "hub", repository, names)
    made = plan(cache)
    assert (made.downloads, made.problems) == ((), ())
    assert not any("tokenizer" in note for note in made.notes)
    tokenizer = load_tokenizer(resolve_origin(MODEL, "none"), cache, download=False)
    assert tokenizer(["a red circle"])[0, :4].tolist() == [2, 5, 6, 7]


@pytest.mark.usefixtures("no_connection")
@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ((), ALL),
        (("tokenizer_config.json",), ("config.json", "tokenizer.json")),
        (("config.json",), ("tokenizer_config.json", "tokenizer.json")),
        (("config.json", "tokenizer_config.json"), ("tokenizer.json",)),
    ],
)
def test_files_that_a_tokenizer_needs_are_named(
    names: tuple[str, ...], missing: tuple[str, ...], repository: Path, tmp_path: Path
) -> None:
    made = plan(filled_cache(tmp_path / "hub", repository, names))
    assert made.downloads == (f"the tokenizer {REPOSITORY} ({', '.join(missing)})",)
    assert made.problems == ()
    assert any(f"the tokenizer {REPOSITORY} is on the Hugging Face hub" in note for note in made.notes)
    assert plan(tmp_path / "hub", towers=("image",)).downloads == ()


@pytest.mark.usefixtures("no_connection")
def test_a_damaged_tokenizer_is_refused_as_the_export_refuses_it(repository: Path, tmp_path: Path) -> None:
    cache = filled_cache(tmp_path / "hub", repository, ALL)
    (cache / f"models--{REPOSITORY}" / "snapshots" / COMMIT / "tokenizer.json").write_text("{")
    with pytest.raises(ExportError, match=f"cannot load the tokenizer of {MODEL}"):
        plan(cache)


@pytest.mark.usefixtures("no_connection")
def test_the_last_line_says_what_would_be_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ViT-B-32", "--dry-run", "--engine", "onnxruntime", "--cache-dir", str(tmp_path / "hub")]) == 0
    end = " ".join(capsys.readouterr().out.split())
    assert end.endswith("the export can run if it can download the weights datacomp_xl_s13b_b90k of ViT-B-32")


@pytest.mark.parametrize(("names", "code"), [((), 1), (("tokenizer_config.json",), 1), (ALL, 0)])
def test_offline_a_tokenizer_that_is_not_in_the_cache_is_a_problem(
    names: tuple[str, ...], code: int, repository: Path, tmp_path: Path
) -> None:
    filled_cache(tmp_path / "home" / "hub", repository, names)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_CACHE", None)
    words = [sys.executable, "-m", "exporter", MODEL, "--pretrained", "none", "--engine", "onnxruntime", "--dry-run"]
    ran = subprocess.run([*words, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (code, "")
    problems = json.loads(ran.stdout)["problems"]
    lacks = f"HF_HUB_OFFLINE is set, and the cache lacks the tokenizer {REPOSITORY} (config.json, "
    assert [lacks in problem for problem in problems] == [True] * code


def test_a_checkpoint_at_another_address_does_not_depend_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with (
        registered_tag("RN50", "here", hf_hub="someone/rn50/"),
        registered_tag("RN50", "there", url="https://example.org/rn50.pt"),
    ):
        made = {tag: make_plan(Options("RN50", pretrained=tag, cache_dir=tmp_path)) for tag in ("here", "there")}
    assert [made[tag].downloads for tag in made] == [("the weights here of RN50",), ("the weights there of RN50",)]
    assert [len(made[tag].problems) for tag in made] == [1, 0]
    assert "the cache lacks the weights here of RN50: unset it" in made["here"].problems[0]


def test_a_tokenizer_without_a_vocabulary_is_not_exported(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5 makes a tokenizer from a configuration alone, to which every word is unknown."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    origin = resolve_origin(MODEL, "none")
    with pytest.raises(
        ExportError, match=r"has no vocabulary: put tokenizer\.json into bert-base-uncased, or into the cache"
    ):
        load_tokenizer(origin, filled_cache(tmp_path / "hub", repository, ("config.json",)))
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        load_tokenizer(origin, tmp_path / "nothing")
