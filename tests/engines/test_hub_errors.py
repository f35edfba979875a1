"""What a user reads when the hub refuses, is far away, or its client library is missing: one line, with the remedy."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_libraries import break_library
from hub_server import READ_TOKEN, TOKEN, HubServer, Repository, hub_environment, running_hub

from engines.hub.client import endpoint_problem, unreadable_endpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(demo_bundle: Path) -> Iterator[HubServer]:
    with running_hub() as server:
        server.add("org/demo", demo_bundle)
        server.add("org/private", demo_bundle, private=True)
        server.add("org/gated", demo_bundle, gated=True)
        server.repositories["org/empty"] = Repository()
        server.repositories["org/empty"].commit({".gitattributes": b""})
        yield server


def error_of(url: str, home: Path, *words: str, first: Path | None = None, **environment: str) -> str:
    """The only line on standard error of ``python -m engines WORDS``, which ends with 1."""
    more = {} if first is None else {"PYTHONPATH": str(first)}
    done = subprocess.run(
        [sys.executable, "-m", "engines", *words],
        cwd=ROOT,
        env=hub_environment(url, home, **more, **environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@pytest.mark.parametrize(
    ("reference", "token", "expected"),
    [
        ("hf:org/none", "", f"no such repository, or it is private: check the name, or {LOGIN}"),
        ("hf:org/none", TOKEN, "no such repository, or it is private"),
        ("hf:org/private", "", f"or it is private: check the name, or {LOGIN}"),
        ("hf:org/demo", "hf_wrong", f"the hub refuses the token: {LOGIN}"),
        ("hf:org/gated", "", f"the repository is gated: ask for access on its page, then {LOGIN}"),
        ("hf:org/gated", READ_TOKEN, "the repository is gated: ask for access on its page"),
        ("hf:org/demo@v9", "", "the repository has no revision v9: name a branch, a tag or a whole commit"),
        ("hf:org/empty", "", "hf:org/empty is no bundle, because the repository has no manifest.json"),
        ("hf:org", "", "'hf:org' names no bundle on the hub: write hf:ORG/NAME or hf:ORG/NAME@REVISION"),
        ("org/demo", "", "'org/demo' names no bundle on the hub: write hf:ORG/NAME"),
    ],
)
def test_refusals(hub: HubServer, tmp_path: Path, reference: str, token: str, expected: str) -> None:
    environment = {"HF_TOKEN": token} if token else {}
    assert expected in error_of(hub.url, tmp_path, "pull", reference, **environment)


@pytest.mark.parametrize("address", ["hub.example", "https://", "https://hub.example:99999"])
def test_an_address_that_is_none_is_said_by_its_variable(tmp_path: Path, address: str) -> None:
    error = error_of(address, tmp_path, "pull", "hf:org/demo")
    assert f"HF_ENDPOINT is {address!r}, which is no address: write one that begins with https://" in error


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("https://hub.example", True),
        ("HTTP://127.0.0.1:8080/", True),
        ("http://[::1]:80/path", True),
        ("ftp://hub.example", False),
        ("https://:443", False),
        ("https://?x", False),
        ("https://hub example", False),
        ("https://hub.example:port", False),
    ],
)
def test_addresses(address: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert (endpoint_problem() is None) == good


@pytest.mark.parametrize(
    ("address", "readable"),
    [
        ("", True),
        ("https://hub.example:8443", True),
        ("ftp://hub.example", True),
        ("hub.example", True),
        ("https://hub.example:99999", False),
        ("https://hub.example:port", False),
        ("https://hub.example:-1", False),
        ("https://[::1", False),
    ],
)
def test_addresses_with_which_the_client_cannot_be_imported(
    address: str, readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    problem = unreadable_endpoint()
    assert (problem is None) == readable
    assert readable or problem == endpoint_problem()


def test_private_and_gated_repositories_open_with_the_token(hub: HubServer, tmp_path: Path) -> None:
    for name in ("private", "gated"):
        words = [sys.executable, "-m", "engines", "pull", f"hf:org/{name}"]
        environment = hub_environment(hub.url, tmp_path, HF_TOKEN=TOKEN)
        assert subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (503, "answers 503: run the same command again later, it goes on"),
        (429, "the hub refuses more requests for now: wait some minutes"),
        (403, "the hub forbids it"),
        (418, "the hub answers 418"),
    ],
)
def test_statuses(hub: HubServer, tmp_path: Path, status: int, expected: str) -> None:
    hub.status = status
    assert expected in error_of(hub.url, tmp_path, "pull", "hf:org/demo")


def test_a_file_that_the_repository_lacks(hub: HubServer, tmp_path: Path) -> None:
    repository = hub.repositories["org/demo"]
    files = dict(repository.commits[repository.refs["main"]])
    del files["tokenizer.json"]
    repository.commit(files)
    message = error_of(hub.url, tmp_path, "verify", "hf:org/demo")
    assert "the repository lacks a file that its manifest names: take another revision, or tell its owner" in message


def test_a_connection_that_always_breaks(hub: HubServer, tmp_path: Path) -> None:
    hub.cut["text.onnx.data"] = [1000] * 20
    message = error_of(hub.url, tmp_path, "pull", "hf:org/demo", "--out", str(tmp_path / "out"))
    assert re.search(
        r"cannot be reached, or the connection broke \(.+\): run the same command again, it goes on", message
    )
    assert not (tmp_path / "out").exists()


def test_nobody_listens(tmp_path: Path) -> None:
    message = error_of("http://127.0.0.1:9", tmp_path, "pull", "hf:org/demo")
    assert message.startswith(
        "error: cannot download hf:org/demo: 127.0.0.1:9 cannot be reached, or the connection broke ("
    )


def test_the_real_hub_without_a_network(tmp_path: Path) -> None:
    """Through a proxy that does not answer, so that this test asks nobody, with or without a network."""
    proxy = "http://127.0.0.1:9"
    message = error_of(
        "https://huggingface.co", tmp_path, "pull", "hf:org/demo", HTTPS_PROXY=proxy, https_proxy=proxy, NO_PROXY=""
    )
    assert message.startswith(
        "error: cannot download hf:org/demo: huggingface.co cannot be reached, or the connection broke ("
    )


def test_a_server_that_is_no_hub(hub: HubServer, tmp_path: Path) -> None:
    assert "error: cannot download hf:org/demo: " in error_of(f"{hub.url}/elsewhere", tmp_path, "pull", "hf:org/demo")


def test_places_that_cannot_be_written(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x", encoding="utf-8")
    for out, expected in (
        ("file/out", "the disk refuses"),
        ("file", "exists and is not hf:org/demo: remove it, or pass another --out; nothing there was touched"),
        ("full", "exists and is not hf:org/demo"),
    ):
        assert expected in error_of(hub.url, tmp_path / "home", "pull", "hf:org/demo", "--out", str(tmp_path / out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "home"]
    assert "the disk refuses" in error_of(hub.url, tmp_path / "file", "pull", "hf:org/demo")


def test_the_client_is_broken_or_missing(tmp_path: Path) -> None:
    install = "pip install 'openclip-engines[hub]'"
    missing = "raise ModuleNotFoundError(\"No module named 'huggingface_hub'\", name='huggingface_hub')"
    for code, expected in (
        (missing, f"huggingface_hub is not installed: {install}"),
        (
            "raise RuntimeError('it is broken')",
            "huggingface_hub is installed and cannot be imported (RuntimeError: it is broken)",
        ),
    ):
        first = break_library(tmp_path / str(len(code)), "huggingface_hub", code)
        message = error_of("http://127.0.0.1:9", tmp_path, "inspect", "hf:org/demo", first=first)
        assert f"the Hugging Face hub cannot be used, because {expected}" in message
        assert install in message
