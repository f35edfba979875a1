"""``python -m engines pull`` and ``hf:`` references, against a server of the hub's protocol with connections that break."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from hub_server import HubServer, files_of, hub_environment, running_hub
from made_pictures import encoded

from engines.manifest import MANIFEST_NAME, Engine, File, Manifest, Target, manifest_bytes, read_manifest

ROOT = Path(__file__).parents[2]
WEIGHTS = "text.onnx.data"
CLIENT = int(version("huggingface_hub").split(".")[0])
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(demo_bundle: Path) -> Iterator[HubServer]:
    with running_hub() as server:
        server.add("org/demo", demo_bundle)
        yield server


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    """``python WORDS`` with the server as the hub and an empty cache; the server's requests are those of the last run."""

    def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        hub.requests.clear()
        return subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=hub_environment(hub.url, tmp_path / "home", **environment),
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


def pull(run: Run, *words: str, **environment: str) -> Path:
    done = run("-m", "engines", "pull", *words, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["bundle"])


def refused(run: Run, *words: str, **environment: str) -> str:
    """The only line on standard error of a command that ends with 1."""
    done = run("-m", "engines", *words, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_pull_gives_the_bundle_and_only_what_its_manifest_names(
    run: Run, hub: HubServer, demo_bundle: Path, tmp_path: Path
) -> None:
    repository = hub.repositories["org/demo"]
    files = files_of(demo_bundle)
    repository.commit({**files, "README.md": b"# card", "notes.txt": b"x" * 99, "engines/other.plan": b"y" * 99})
    done = run("-m", "engines", "pull", "hf:org/demo", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "sizes and checksums are right" in done.stdout
    assert files_of(tmp_path / "out") == {**files, "README.md": b"# card"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_the_cache_is_used_again_and_links_into_it_load(run: Run, hub: HubServer, demo_bundle: Path) -> None:
    folder = pull(run, "hf:org/demo")
    assert all((folder / name).is_symlink() for name in read_manifest(demo_bundle).files)
    assert pull(run, "hf:org/demo") == folder
    assert hub.downloads() == {}
    code = "import engines; c = engines.load('hf:org/demo'); print(c.encode_text(['a red circle']).shape, c.manifest.model.name)"
    done = run("-c", code)
    assert (done.stdout, done.returncode) == ("(1, 64) demo\n", 0), done.stderr
    assert hub.downloads() == {}


def test_inspect_downloads_the_manifest_alone(run: Run, hub: HubServer) -> None:
    files = next(iter(hub.repositories["org/demo"].commits.values()))
    hub.repositories["org/demo"].commit({**files, "README.md": b"a card"})
    done = run("-m", "engines", "inspect", "hf:org/demo")
    assert done.returncode == 0, done.stderr
    assert "files; on the hub, only the manifest was downloaded)" in done.stdout.splitlines()[0]
    assert set(hub.downloads()) == {"manifest.json"}
    rows = [line.split() for line in done.stdout.splitlines() if line.lstrip().startswith("onnxruntime")]
    assert [row[-1] for row in rows[:2]] == ["yes", "yes"]
    answer = json.loads(run("-m", "engines", "inspect", "hf:org/demo", "--json").stdout)
    assert answer["checked"] == "manifest"
    done = run("-m", "engines", "inspect", "hf:org/demo", "--full")
    assert "sizes and checksums are right" in done.stdout
    assert "image.onnx.data" in hub.downloads()


def test_commands_take_references(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1, "PNG"))
    (tmp_path / "texts.txt").write_text("a red circle\na blue square\n", encoding="utf-8")
    out = str(tmp_path / "texts.npy")
    for words, expected in (
        (("inspect", "hf:org/demo"), "precision   fp32"),
        (("verify", "hf:org/demo@main"), "verified: files and embeddings are right"),
        (("embed", "hf:org/demo", "--texts", str(tmp_path / "texts.txt"), "--out", out), "2 of 2 embedded"),
        (("classify", "hf:org/demo", str(tmp_path / "a.png"), "--labels", "a dog,a cat"), "a.png"),
    ):
        done = run("-m", "engines", *words)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize("out", [True, False])
def test_a_killed_pull_goes_on(run: Run, hub: HubServer, demo_bundle: Path, tmp_path: Path, out: bool) -> None:
    """Files that were complete are not fetched again; the one in the middle is, whole where the client is 2.0 or newer."""
    words = ("hf:org/demo", "--out", str(tmp_path / "out")) if out else ("hf:org/demo",)
    hub.slow[WEIGHTS] = 0.05
    process = subprocess.Popen(
        [sys.executable, "-m", "engines", "pull", *words],
        cwd=ROOT,
        env=hub_environment(hub.url, tmp_path / "home"),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while hub.downloads().get(WEIGHTS, 0) < 1_000_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    hub.slow.clear()
    done = [name for name, size in hub.downloads().items() if name != WEIGHTS and size]
    assert "image.onnx.data" in done
    folder = pull(run, *words)
    assert set(hub.downloads()).isdisjoint(done)
    size = read_manifest(demo_bundle).files[WEIGHTS].bytes
    assert hub.downloads()[WEIGHTS] == size if CLIENT >= 2 else 0 < hub.downloads()[WEIGHTS] <= size
    assert {name: data for name, data in files_of(folder).items() if name != "README.md"} == files_of(demo_bundle)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_interrupted_pull_ends_at_once(hub: HubServer, tmp_path: Path) -> None:
    hub.slow[WEIGHTS] = 0.2
    process = subprocess.Popen(
        [sys.executable, "-m", "engines", "pull", "hf:org/demo", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=hub_environment(hub.url, tmp_path / "home"),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not hub.downloads().get(WEIGHTS, 0):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)  # the file alone would take 40 seconds
    assert (process.returncode, errors) == (130, "interrupted\n")


@pytest.mark.skipif(CLIENT < 2, reason="older clients end there, and go on at the next run")
def test_a_broken_connection_goes_on_in_the_middle_of_a_file(run: Run, hub: HubServer, tmp_path: Path) -> None:
    hub.cut[WEIGHTS] = [11_000_000]
    folder = pull(run, "hf:org/demo", "--out", str(tmp_path / "out"))
    ranges = [request.range for request in hub.requests if request.range]
    assert len(ranges) == 1
    size = (folder / WEIGHTS).stat().st_size
    start = int(ranges[0].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 11_000_000
    assert hub.downloads()[WEIGHTS] == 11_000_000 + size - start


@pytest.mark.parametrize("out", [True, False])
def test_damaged_content_is_fetched_again_and_then_refused(run: Run, hub: HubServer, tmp_path: Path, out: bool) -> None:
    words = ("hf:org/demo", "--out", str(tmp_path / "out")) if out else ("hf:org/demo",)
    hub.damaged["image.onnx.data"] = 2
    message = refused(run, "pull", *words)
    assert (
        "image.onnx.data of hf:org/demo has another sha256 than the manifest says, also after a second download"
        in message
    )
    assert not (tmp_path / "out").exists()
    # What was damaged is still there, is noticed, and is mended by one more download.
    folder = pull(run, *words)
    assert "image.onnx.data" in hub.downloads()
    assert "image.onnx" not in hub.downloads()
    assert read_manifest(folder).model.name == "demo"
    hub.damaged["image.onnx.data"] = 1
    (tmp_path / "other").mkdir()  # an empty folder is no obstacle
    done = run(
        "-m", "engines", "pull", "hf:org/demo", "--out", str(tmp_path / "other"), HF_HOME=str(tmp_path / "home2")
    )
    assert done.returncode == 0, done.stderr
    assert sum("image.onnx.data" in request.path for request in hub.requests if request.method == "GET") == 2


def test_a_damaged_cache_is_noticed_and_mended(run: Run, hub: HubServer) -> None:
    folder = pull(run, "hf:org/demo")
    for name in ("image.onnx.data", MANIFEST_NAME):
        blob = (folder / name).resolve()
        data = bytearray(blob.read_bytes())
        data[0] ^= 1
        blob.write_bytes(data)
    message = refused(run, "pull", "hf:org/demo", HF_HUB_OFFLINE="1")
    assert "manifest.json is damaged or was edited" in message
    assert pull(run, "hf:org/demo") == folder
    assert set(hub.downloads()) == {"image.onnx.data", MANIFEST_NAME}
    blob = (folder / "image.onnx.data").resolve()
    blob.write_bytes(blob.read_bytes()[:-1])  # loading compares sizes and mends that, too
    assert run("-c", "import engines; engines.load('hf:org/demo').close()").returncode == 0
    assert set(hub.downloads()) == {"image.onnx.data"}


def test_offline(run: Run, hub: HubServer, tmp_path: Path) -> None:
    message = refused(run, "pull", "hf:org/demo", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, and the cache lacks files of revision main" in message
    first = hub.repositories["org/demo"].refs["main"]
    folder = pull(run, "hf:org/demo")
    for reference in ("hf:org/demo", f"hf:org/demo@{first}"):
        assert pull(run, reference, HF_HUB_OFFLINE="1") == folder
        assert hub.requests == []
    pull(run, "hf:org/demo", "--out", str(tmp_path / "out"), HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert "revision v2" in refused(run, "inspect", "hf:org/demo@v2", HF_HUB_OFFLINE="1")
    (folder / "image.onnx").unlink()
    message = refused(run, "verify", "hf:org/demo", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, and the cache lacks files" in message
    # Without a network the cache serves, too, at once.
    assert pull(run, "hf:org/demo") == folder
    start = time.monotonic()
    assert pull(run, "hf:org/demo", HF_ENDPOINT="http://127.0.0.1:9") == folder
    assert time.monotonic() - start < 20


def test_revisions_are_pinned(run: Run, hub: HubServer, demo_bundle: Path, tmp_path: Path) -> None:
    repository = hub.repositories["org/demo"]
    first = repository.refs["main"]
    changed = msgspec.structs.replace(read_manifest(demo_bundle), created_with={"a": "2"})
    second = repository.commit({**files_of(demo_bundle), MANIFEST_NAME: manifest_bytes(changed)})
    folder = pull(run, f"hf:org/demo@{first}")
    assert folder.name == first
    assert read_manifest(folder).created_with != {"a": "2"}
    assert pull(run, "hf:org/demo").name == second
    assert set(hub.downloads()) == {MANIFEST_NAME}  # the other files are the same blobs
    out = tmp_path / "out"
    pull(run, f"hf:org/demo@{first}", "--out", str(out))
    before = files_of(out)
    message = refused(run, "pull", "hf:org/demo", "--out", str(out))
    assert "exists and is not hf:org/demo: remove it, or pass another --out" in message
    assert files_of(out) == before
    assert pull(run, f"hf:org/demo@{first}", "--out", str(out)) == out  # it is there already
    (out / "image.onnx").unlink()
    assert "with a damaged or missing file" in refused(run, "pull", f"hf:org/demo@{first}", "--out", str(out))


def test_pulls_at_once(hub: HubServer, demo_bundle: Path, tmp_path: Path) -> None:
    """Four processes into one folder and one cache: all succeed, and the bundle is whole."""
    hub.slow[WEIGHTS] = 0.002
    out = tmp_path / "out"
    targets = [("--out", str(out)), ("--out", str(out)), (), ()]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "engines", "pull", "hf:org/demo", *words],
            cwd=ROOT,
            env=hub_environment(hub.url, tmp_path / "home"),
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in targets
    ]
    ends = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], ends
    assert files_of(out) == files_of(demo_bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_files_of_other_engines_are_left_out(run: Run, hub: HubServer, demo_bundle: Path, tmp_path: Path) -> None:
    manifest = with_plan(read_manifest(demo_bundle))
    hub.repositories["org/demo"].commit(
        {**files_of(demo_bundle), "engines/image.plan": b"plan", MANIFEST_NAME: manifest_bytes(manifest)}
    )
    done = run("-c", "import engines; print(engines.load('hf:org/demo', engine='onnxruntime').engines['image'])")
    assert "onnxruntime" in done.stdout, done.stderr
    assert "engines/image.plan" not in hub.downloads()
    out = str(tmp_path / "out")
    folder = pull(run, "hf:org/demo", "--engine", "onnxruntime", "--out", out)
    assert not (folder / "engines").exists()
    assert pull(run, "hf:org/demo", "--engine", "onnxruntime", "--out", out) == folder
    assert run("-m", "engines", "inspect", out).returncode == 0
    assert "it has onnxruntime, tensorrt" in refused(run, "pull", "hf:org/demo", "--engine", "openvino")
    # Without --engine, the rest comes, too.
    folder = pull(run, "hf:org/demo")
    assert hub.downloads() == {"engines/image.plan": 4}
    assert (folder / "engines" / "image.plan").read_bytes() == b"plan"


def with_plan(manifest: Manifest) -> Manifest:
    """The manifest with one more engine, of a kind that this machine need not have."""
    target = Target(library="tensorrt", version="10.13", device="sm90")
    plan = Engine(kind="tensorrt", tower="image", file="engines/image.plan", target=target)
    listed = File(bytes=4, sha256=hashlib.sha256(b"plan").hexdigest())
    files = {**manifest.files, plan.file: listed}
    return msgspec.structs.replace(manifest, engines=(*manifest.engines, plan), files=files)


def test_paths_that_leave_the_folder_are_refused(run: Run, hub: HubServer, demo_bundle: Path, tmp_path: Path) -> None:
    text = (demo_bundle / MANIFEST_NAME).read_text(encoding="utf-8")
    for bad in ("../../escaped", "/tmp/escaped", "a/../../escaped"):
        forged = text.replace('"report.json"', json.dumps(bad))
        hub.repositories["org/demo"].commit({**files_of(demo_bundle), MANIFEST_NAME: forged.encode()})
        message = refused(run, "pull", "hf:org/demo", "--out", str(tmp_path / "out"))
        assert f"path {bad!r} in the manifest" in message
        assert set(hub.downloads()) <= {MANIFEST_NAME, "README.md"}
    assert not list(tmp_path.rglob("escaped*"))
    assert sorted(os.listdir(tmp_path)) == ["home"]
