"""``python -m exporter.publishing`` and ``python -m exporter --push``, against a server of the hub's protocol."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broken_libraries import break_library
from hub_server import READ_TOKEN, TOKEN, HubServer, files_of, hub_environment, running_hub

from engines.manifest import MANIFEST_NAME

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running_hub() as server:
        yield server


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    """``python -m WORDS`` with the server as the hub and its owner's token; the server's requests are those of the last run."""

    def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        hub.requests.clear()
        more = {"HF_TOKEN": TOKEN, **environment}
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=hub_environment(hub.url, tmp_path / "home", **more),
            capture_output=True,
            text=True,
            timeout=300,
        )

    return start


def refused(run: Run, *words: str, **environment: str) -> str:
    done = run("exporter.publishing", *words, **environment)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_push_is_one_commit_that_can_be_pulled(run: Run, hub: HubServer, demo_bundle: Path, tmp_path: Path) -> None:
    done = run("exporter.publishing", str(demo_bundle), "org/demo")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    repository = hub.repositories["org/demo"]
    commit = repository.refs["main"]
    page, reference = done.stdout.splitlines()
    assert page.startswith(f"{hub.url}/org/demo  (")
    assert reference == f"  python -m engines pull hf:org/demo@{commit}"
    assert repository.messages == ["initial commit", "Bundle of demo in fp32"]
    files = dict(repository.commits[commit])
    card = files.pop("README.md").decode()
    assert card.startswith("---\nlicense: mit\n")
    assert 'clip = engines.load("hf:org/demo")' in card
    del files[".gitattributes"]
    assert files == files_of(demo_bundle)
    pulled = run("engines", "pull", f"hf:org/demo@{commit}", "--out", str(tmp_path / "out"))
    assert pulled.returncode == 0, pulled.stderr
    assert files_of(tmp_path / "out") == {**files_of(demo_bundle), "README.md": card.encode()}
    assert run("engines", "verify", str(tmp_path / "out")).returncode == 0


def test_a_second_push_sends_only_what_changed(run: Run, hub: HubServer, demo_bundle: Path) -> None:
    assert run("exporter.publishing", str(demo_bundle), "org/demo").returncode == 0
    repository = hub.repositories["org/demo"]
    repository.commit({**repository.commits[repository.refs["main"]], "notes.txt": b"by hand"})
    again = run("exporter.publishing", str(demo_bundle), "org/demo")
    assert again.returncode == 0, again.stderr
    assert not [request for request in hub.requests if request.method == "PUT"]
    assert repository.commits[repository.refs["main"]]["notes.txt"] == b"by hand"


def test_branches_and_private_repositories(run: Run, hub: HubServer, demo_bundle: Path) -> None:
    done = run("exporter.publishing", str(demo_bundle), "org/demo", "--private", "--revision", "v1")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["org/demo"]
    assert repository.private
    assert set(repository.commits[repository.refs["main"]]) == {".gitattributes"}
    assert MANIFEST_NAME in repository.commits[repository.refs["v1"]]
    assert b'engines.load("hf:org/demo@v1")' in repository.commits[repository.refs["v1"]]["README.md"]
    assert run("engines", "pull", "hf:org/demo@v1").returncode == 0


def test_a_damaged_bundle_is_not_pushed(run: Run, hub: HubServer, bundle_copy: Path) -> None:
    weights = bundle_copy / "image.onnx.data"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "image.onnx.data in bundle" in (message := refused(run, str(bundle_copy), "org/demo"))
    assert "was changed" in message
    weights.unlink()
    assert "image.onnx.data is missing" in refused(run, str(bundle_copy), "org/demo")
    assert "is not there" in refused(run, str(bundle_copy / "nothing"), "org/demo")
    assert hub.requests == []


def test_files_outside_the_manifest_stay_here(run: Run, hub: HubServer, bundle_copy: Path) -> None:
    (bundle_copy / "secret.txt").write_text("mine", encoding="utf-8")
    (bundle_copy / "README.md").write_text("an old card", encoding="utf-8")
    assert run("exporter.publishing", str(bundle_copy), "org/demo").returncode == 0
    repository = hub.repositories["org/demo"]
    files = repository.commits[repository.refs["main"]]
    assert "secret.txt" not in files
    assert b"an old card" not in files["README.md"]


@pytest.mark.parametrize(
    ("repository", "environment", "expected"),
    [
        (
            "org/demo",
            {"HF_TOKEN": ""},
            "needs a login: log in with `hf auth login`, or set HF_TOKEN, with a token that may write",
        ),
        (
            "org/demo",
            {"HF_TOKEN": "hf_wrong"},
            "cannot push to org/demo: the hub refuses the token: log in with `hf auth login`",
        ),
        ("org/demo", {"HF_TOKEN": READ_TOKEN}, "take a token with write access to it"),
        ("org/demo", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it"),
        ("org/demo", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9 cannot be reached, or the connection broke ("),
        ("demo", {}, "'demo' is no repository of the hub: write ORG/NAME"),
    ],
)
def test_refusals(run: Run, demo_bundle: Path, repository: str, environment: dict[str, str], expected: str) -> None:
    assert expected in refused(run, str(demo_bundle), repository, **environment)


def test_the_client_is_missing(run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'huggingface_hub'\", name='huggingface_hub')"
    first = break_library(tmp_path / "first", "huggingface_hub", missing)
    message = refused(run, str(demo_bundle), "org/demo", PYTHONPATH=str(first))
    assert "huggingface_hub is not installed: pip install 'openclip-engines[hub]'" in message
    assert run("exporter.publishing", str(demo_bundle), "org/demo", "--card", PYTHONPATH=str(first)).returncode == 0


def test_the_card_alone(run: Run, hub: HubServer, demo_bundle: Path) -> None:
    done = run("exporter.publishing", str(demo_bundle), "org/demo", "--card", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("---\nlicense: mit\n")
    assert hub.requests == []


def test_an_export_that_pushes(run: Run, hub: HubServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("exporter", "demo", "--parity-samples", "4", "--out", str(out), "--push", "org/demo")
    early = run(*words, HF_TOKEN="")
    assert (early.returncode, out.exists()) == (1, False)  # before anything is exported
    assert "needs a login" in early.stderr
    failed = run(*words, HF_TOKEN="hf_wrong")
    assert failed.returncode == 1
    again = f"push it later with `python -m exporter.publishing {out} org/demo`"
    assert f"error: {out} is complete, but not on the hub: " in failed.stderr
    assert again in failed.stderr
    shutil.rmtree(out)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}  (")
    assert f"{hub.url}/org/demo  (" in done.stderr
    assert MANIFEST_NAME in hub.repositories["org/demo"].commits[hub.repositories["org/demo"].refs["main"]]


def test_an_interrupted_push_says_that_the_bundle_is_there(hub: HubServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hub.pause = 0.3
    words = ("demo", "--parity-samples", "4", "--out", str(out), "--push", "org/demo")
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", *words],
        cwd=ROOT,
        env=hub_environment(hub.url, tmp_path / "home", HF_TOKEN=TOKEN),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(request.method == "PUT" for request in hub.requests):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert f"error: {out} is complete, but not on the hub: interrupted; push it later with `" in errors
    assert hub.repositories["org/demo"].messages == ["initial commit"]
