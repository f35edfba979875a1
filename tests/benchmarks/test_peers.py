"""``benchmarks peers``: the demo model in this project's runtime against eager transformers, each in its own process."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture

from benchmarks.cpp_library.side import Side, SideError
from benchmarks.peers import command, contenders, environments
from benchmarks.peers.contenders import CONTENDERS, OURS, PEERS, REFERENCE, Contender
from benchmarks.peers.inputs import captions
from benchmarks.peers.measurement import Agreement, Measured, agreement, ask, disagreement, worker_command
from benchmarks.peers.models import failure_file, model_folder, prepare_model
from benchmarks.peers.rows import measured_rows
from benchmarks.records import rows
from benchmarks.records.peers import ratio_label, split_ratio_label
from benchmarks.reporting.peers_table import NO_PEERS, peers_table

pytest.importorskip("transformers")
TRANSFORMERS, OPTIMUM, FASTER = PEERS[0], PEERS[1], PEERS[-1]


@pytest.fixture(scope="module")
def prepared(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the demo model for onnxruntime and transformers."""
    root = tmp_path_factory.mktemp("peers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        place = model_folder("demo")
        place.mkdir(parents=True)
        (place / REFERENCE.folder).symlink_to(demo_bundle)
        assert command.main(["--prepare", "--model", "demo", "--only", "transformers"]) == 0
        yield root


def test_a_run(prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Embeddings of both are the same, so both have figures; those that cannot run have rows with the reason."""
    monkeypatch.chdir(prepared)
    words = ["--model", "demo", "--rounds", "2", "--batches", "1", "3"]
    assert command.main([*words, "--only", "transformers", "optimum", "openvino fp32"]) == 0
    (file,) = prepared.glob("benchmarks/results/*/peers.csv")
    made = rows.read(file)
    errors = [row for row in made if row.figure == "max_abs_error"]
    assert {(row.engine, row.tower) for row in errors} == {
        (engine, tower) for engine in ("onnxruntime", "transformers") for tower in ("image", "text")
    }
    assert all(row.value is not None and row.value <= 1e-4 for row in errors)
    speeds = [row for row in made if row.figure == "per_second" and row.value is not None]
    assert {(row.engine, row.tower, row.batch) for row in speeds} == {
        (engine, tower, batch)
        for engine in ("onnxruntime", "transformers")
        for tower in ("image", "text")
        for batch in (1, 3)
    }
    assert all(row.value and row.repeats == 2 and row.threads == 2 and row.versions for row in speeds)
    ratios = [row for row in made if row.figure == "speedup"]
    assert [row.engine for row in ratios] == ["onnxruntime over transformers"] * 4
    reasons = {row.engine: (row.status, row.note) for row in made if row.value is None}
    assert reasons["optimum"] == (
        "missing",
        "its environment is not there: run `python -m benchmarks peers --prepare`",
    )
    assert reasons["openvino"][0] == "failed"  # the fixture's bundle has no such engine
    table = peers_table(prepared / "benchmarks" / "results")
    assert "| onnxruntime | fp32 |" in table
    assert "captions, batch 3: over transformers" in table
    assert "Not measured: openvino fp32 image (failed: " in table
    assert "transformers" in capsys.readouterr().out


def test_the_worker(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives the embeddings of a library, goes on after an error, and keeps prints of a library off its answers."""
    import torch
    from transformers import CLIPModel, CLIPTokenizerFast

    monkeypatch.chdir(prepared)
    folder = model_folder("demo")
    texts = ["a red circle on a white ground", "two squares"]
    items, out, wrong = tmp_path / "texts.json", tmp_path / "embeds.bin", tmp_path / "wrong.json"
    items.write_text(json.dumps(texts))
    wrong.write_text(json.dumps(["none.jpg"]))
    model = CLIPModel.from_pretrained(folder / "transformers").eval()
    with torch.inference_mode():
        inputs = CLIPTokenizerFast.from_pretrained(folder / "transformers")(texts, padding=True, return_tensors="pt")
        expected = model.get_text_features(**inputs)
    with Side(worker_command(TRANSFORMERS, folder, 1)) as side:
        assert side.engines["versions"].startswith("transformers ")
        with pytest.raises(SideError, match=r"FileNotFoundError: .*none\.jpg"):
            ask(side, "image", wrong)
        answer = ask(side, "text", items, calls=3, save=out)
    assert answer["shape"] == [2, 64]
    assert len(answer["seconds"]) == 3
    assert all(second > 0 for second in answer["seconds"])
    np.testing.assert_allclose(
        np.fromfile(out, np.float32).reshape(2, 64), getattr(expected, "pooler_output", expected), atol=1e-5
    )
    with pytest.raises(SideError), Side([*worker_command(TRANSFORMERS, tmp_path, 1)]):
        pass


def test_prints_of_a_library_are_no_answers(tmp_path: Path) -> None:
    code = (
        "import runpy; from pathlib import Path; import sys\n"
        "w = runpy.run_path(sys.argv[1]); opened = lambda folder, threads: (print('loud'), w['Opened'](len, "
        "lambda texts: print('louder') or [[1.0, 2.0] for _ in texts], ['pytest']))[1]\n"
        "w['OPENERS']['loud'] = opened; w['main'](['loud', '', '1'])"
    )
    worker = worker_command(TRANSFORMERS, tmp_path, 1)[2]
    items = tmp_path / "texts.json"
    items.write_text('["a", "b"]')
    with Side([sys.executable, "-I", "-c", code, worker]) as side:
        assert side.engines["versions"] == f"pytest {pytest.__version__}"
        assert ask(side, "text", items, save=tmp_path / "out")["shape"] == [2, 2]
    assert np.fromfile(tmp_path / "out", np.float32).tolist() == [1, 2, 1, 2]


def test_agreement() -> None:
    exact = np.eye(3)
    turned = exact[[1, 0, 2]]
    assert agreement([exact, exact], [exact, turned]) == Agreement(0.0, 1.0, 0.0)
    assert agreement([exact, exact], [exact[:, :2], exact]).max_abs_error == math.inf
    assert disagreement(TRANSFORMERS, Agreement(9e-5, 1.0, 0.9)) is None
    for found in (Agreement(2e-4, 1.0, 1.0), Agreement(math.nan, 1.0, 1.0)):
        assert "at most 1e-04 is allowed" in str(disagreement(TRANSFORMERS, found))
    assert disagreement(FASTER, Agreement(0.1, 0.99, 0.9)) is None
    assert "at least 0.98 is needed" in str(disagreement(FASTER, Agreement(0.1, 0.5, 0.5)))


def test_rows_of_failures() -> None:
    """No ratio is made to a peer that failed in a later round, nor of a contender that cannot do a tower."""
    measured = Measured(
        seconds={(REFERENCE, "text", 16): [1.0, 1.0], (OPTIMUM, "text", 16): [2.0]},
        failures={(OPTIMUM, "text"): "RuntimeError: no", (FASTER, "text"): FASTER.lacks["text"]},
    )
    made = measured_rows("ViT-B-32", (REFERENCE, OPTIMUM, FASTER), measured, 2)
    assert [(row.engine, row.figure, row.status) for row in made] == [
        ("onnxruntime", "per_second", "ok"),
        ("optimum", "per_second", "failed"),
        ("faster-clip", "per_second", "missing"),
    ]


def test_captions_have_the_words_of_people() -> None:
    texts = captions(48)
    assert len(set(texts)) == 48
    assert all(5 <= len(text.split()) <= 25 for text in texts)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert contenders.chosen(None) == list(CONTENDERS)
    assert contenders.chosen(["optimum"]) == [REFERENCE, OPTIMUM]
    assert contenders.chosen(["openvino int8"]) == [REFERENCE, OURS[3]]
    assert split_ratio_label(ratio_label("openvino", "faster-clip")) == ("openvino", "faster-clip")
    assert peers_table(tmp_path) == NO_PEERS
    for words, message in ((["--only", "nobody"], "'nobody' is none of onnxruntime,"), ([], "peers --prepare` first")):
        assert command.main(words) == 1
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1
        assert error[0].startswith("error: ")
        assert message in error[0]


def test_what_could_not_be_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not there is a reason, and the next try begins anew; so is a model that cannot be made."""
    monkeypatch.chdir(tmp_path)
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"{tmp_path / 'nothing'}.whl\n")
    monkeypatch.setattr(environments, "requirements", lambda name: pins)
    problem = environments.prepare_environment("optimum")
    assert problem is not None
    assert problem.startswith("installation failed: ")
    assert environments.why_not("optimum") == problem
    pins.write_text("")
    assert environments.prepare_environment("optimum") is None
    assert environments.why_not("optimum") is None
    stranger = Contender("optimum", "fp32", "optimum", "optimum", "optimum")
    model_folder("demo").mkdir(parents=True)
    problem = prepare_model("demo", stranger)  # the environment has no such library
    assert problem == "No module named 'optimum'"
    assert failure_file("demo", stranger).read_text() == problem


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modern-onnx-clip", "optimum", "infinity"])
def test_environments(name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's own environment is made, and its embeddings of the demo are ours."""
    monkeypatch.chdir(prepared)
    (contender,) = [peer for peer in PEERS if peer.name == name]
    assert environments.prepare_environment(contender.environment) is None
    if name == "modern-onnx-clip":
        pytest.skip("its exporter takes architectures that open_clip lists, and the demo is none")
    assert prepare_model("demo", contender) is None
    picture(0).resize((64, 64)).save(tmp_path / "picture.png")
    lists = {"image": [str(tmp_path / "picture.png")], "text": ["a red circle on a white ground"]}
    for tower, items in lists.items():
        (tmp_path / tower).write_text(json.dumps(items))
        found = []
        for one in (REFERENCE, contender):
            with Side(worker_command(one, model_folder("demo"), 1)) as side:
                ask(side, tower, tmp_path / tower, save=tmp_path / "out")
            embeds = np.fromfile(tmp_path / "out", np.float32).reshape(1, -1).astype(float)
            found.append(embeds / np.linalg.norm(embeds))
        assert disagreement(contender, agreement([found[0]] * 2, [found[1]] * 2)) is None
