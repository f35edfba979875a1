"""Every command and every piece of Python of the documentation: run on the demo model, or at least parsed, with the reason why.

A command runs here, in a folder that has the files which it names (`MAKERS`), unless `NEEDS` lists it with what it needs that is
missing here, or its page marks it with "needs a GPU". Those are given to the real parser of the program.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import io
import json
import logging
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from aotinductor_bundle import aotinductor_bundle
from documentation import PAGES, ROOT, Block, Command, commands, names_hub, needs_gpu, snippets
from embedding_folders import write_embeddings
from made_pictures import encoded, picture
from made_up_rows import CPU, speeds

import engines
from benchmarks.records import rows
from engines.engine_kinds import KINDS

NEEDS = {
    "a package index, and 6 GB for environments and models": """
        python -m benchmarks peers --prepare
    """,
    "a network, for weights that are not in this package": """
        python -m exporter ViT-L-14 --fp16
        python -m exporter ViT-L-14 --fp16 --engine tensorrt-rtx --target sm80 --target sm89
        python -m exporter ViT-B-32 --pretrained laion2b_s34b_b79k --out b32
        python -m exporter hf-hub:org/repo
        python -m exporter ViT-L-14 --int8 --calibration photos/ --evaluate imagenet/val
        python -m exporter ViT-L-14 --int8 --calibration photos/ --engine onnxruntime --engine openvino
        python -m exporter ViT-L-14 --int8 --calibration train.tar --engine tensorrt-rtx --target sm80
        python -m exporter ViT-L-14 --fp8 --calibration list.txt --engine tensorrt-rtx --target sm89
        python -m exporter ViT-B-32 --engine aotinductor --target cpu --out b32
        python -m exporter ViT-B-32 --engine aotinductor --kernels triton
    """,
    "a checkpoint of 600 MB, which tests/exporter/test_checkpoints.py replaces by small ones": """
        python -m exporter ViT-B-32 --pretrained weights.safetensors
        python -m exporter local-dir:PATH
    """,
    "minutes: 600 MB of random weights, as `make zoo` exports them": """
        python -m exporter ViT-B-32 --pretrained none --fp16 --out b
    """,
    "minutes or a dataset, and tests/benchmarks/ runs it on less": """
        python -m benchmarks throughput BUNDLE --batches 1,16,64
        python -m benchmarks throughput BUNDLE --contenders "eager,openvino plain"
        python -m benchmarks cpp --model ViT-B-32
        python -m benchmarks decode
        python -m benchmarks peers
        python -m benchmarks bulk BUNDLE --ways 20000
        python -m benchmarks bulk BUNDLE --overhead 600
        python -m benchmarks bulk BUNDLE --search 1000000
        python -m benchmarks parity BUNDLE --data wds_dtd --clip-benchmark
        python -m benchmarks cold-start ViT-L-14 --precision int8 --calibration photos/ --engine onnxruntime \
--engine tensorrt-rtx --target sm80
        python -m benchmarks roofline
        python -m exporter.demo.train --out demo-model
    """,
    "a package index": """
        pip install 'openclip-engines[export]'
        pip install 'openclip-engines[cpu]'
        pip install 'openclip-engines[hub]'
        pip install 'openclip-engines[ray,parquet]'
        pip install 'openclip-engines[sentence-transformers,cpu]'
        pip install 'openclip-engines[export,rtx]'
        pip install 'openclip-engines[faiss]'
        pip install 'openclip-engines[lancedb]'
        python -m pip wheel '.[cpu]' --wheel-dir wheels
        python -m pip install --no-index --find-links wheels 'openclip-engines[cpu]'
    """,
    "a Ray cluster: tests/engines/test_bulk_ray.py starts one": """
        python -m engines embed BUNDLE 'data/{00000..41455}.tar' --out out/ --ray local
        python -m engines embed BUNDLE 'data/{00000..41455}.tar' --out out/ --ray auto
    """,
    "a store of objects: tests/engines/test_bulk_remote.py reads and writes one in memory": """
        python -m engines embed BUNDLE 's3://bucket/laion/{00000..41455}.tar' --out s3://bucket/embeds/
    """,
    "LanceDB, 180 MB, which tests/engines/test_search_hand_over.py uses where it is installed": """
        python -m engines search out/ --to lancedb vectors.lancedb
    """,
    "an account on the hub": """
        hf auth login
    """,
    "a minute of g++ and of the compiler: tests/engines/test_aotinductor_cpp.py compiles and runs the program": """
        embed_aotinductor b32 image pixels.npy image_embeds.npy
        TORCH=$(python -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent)')
        g++ -std=c++20 -O2 embed_aotinductor.cpp -o embed_aotinductor -I "$TORCH/include" -I \
"$TORCH/include/torch/csrc/api/include" -L "$TORCH/lib" -Wl,-rpath,"$TORCH/lib" -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10
    """,
    "packages and a minute of g++: tests/cpp/ builds and installs the library, and runs its programs": """
        apt-get install libjpeg62-turbo-dev libpng-dev libwebp-dev zlib1g-dev nlohmann-json3-dev cmake ninja-build g++
        build/oce-embed demo-bundle photos/ out.npy
        export OPENCLIP_ENGINES_LIBRARY=$PWD/build/libopenclip_engines.so
        cmake -S engines/cpp -B build -G Ninja -DOCE_ONNXRUNTIME_ROOT=sdk -DOCE_OPENVINO=OFF
        cmake --build build
        cmake --install build --prefix /opt/openclip
    """,
}
LISTED = {line.strip(): reason for reason, lines in NEEDS.items() for line in lines.strip().splitlines()}
# Exports and measurements that take ten seconds of computing and more; one export is among the fast tests.
SLOW = {
    "python -m benchmarks parity BUNDLE",
    "python -m exporter demo --engine onnxruntime --engine openvino --out both",
    "python -m exporter demo --out demo-bundle --layout transformers",
    "python -m exporter demo --int8 --out demo-int8",
    "python -m exporter demo --engine aotinductor --out packages",
}
PROGRAMS = ("exporter", "engines", "benchmarks")
# What names the hub is run by test_hub_page.py.
COMMANDS = list({c.text: c for page in PAGES for c in commands(page) if not names_hub(c.text)}.values())
# Optimum cannot be in this environment: tests/exporter/test_layout_consumers.py runs that block, and those in JavaScript.
SNIPPETS = [
    block
    for page in PAGES
    for block in snippets(page)
    if not names_hub(block.text) and "from optimum" not in block.text
]


def program(command: Command) -> tuple[str, list[str]] | None:
    """The module of this repository that a command starts, and its arguments; None of any other command."""
    words = command.words
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in PROGRAMS:
        return words[2], words[3:]
    return None


def runs_here(command: Command) -> bool:
    """Whether the test runs a command: one on the demo model, on a bundle or on files. It never downloads a model."""
    called = program(command)
    if called is None or command.needs_gpu or command.text in LISTED:
        return False
    module, arguments = called
    return {
        "exporter": bool({"demo", "--list", "doctor", "--dry-run"} & set(arguments)),
        "benchmarks": arguments[:1] in (["compare"], ["parity"]),
        "exporter.demo.train": False,
    }.get(module, True)


def main_of(module: str) -> Callable[[list[str]], int]:
    name = f"{module}.__main__" if module in (*PROGRAMS, "exporter.layouts") else module
    main: Callable[[list[str]], int] = importlib.import_module(name).main
    return main


# ---- the files that commands and snippets name


def _pictures(place: Path) -> None:
    place.mkdir()
    for index in range(3):
        picture(index).save(place / f"{index}.jpg")
    (place / "notes.txt").write_text("no picture\n")


def _classes(place: Path) -> None:
    for index, name in enumerate(("red_circle", "blue_square")):
        (place / name).mkdir(parents=True)
        for number in range(3):
            picture(3 * index + number).save(place / name / f"{number}.jpg")


def _captioned(place: Path) -> None:
    _pictures(place)
    (place / "captions.txt").write_text("".join(f"{index}.jpg\tpicture {index}\n" for index in range(3)))


def _list(place: Path) -> None:
    picture(5).save(place.parent / "listed.png")
    place.write_text("listed.png\n")


def _checkpoint(place: Path) -> None:
    import torch

    weights = {"visual.proj": torch.ones(2, 3)}
    torch.save({"state_dict": weights, "state_dict_ema": {"visual.proj": torch.zeros(2, 3)}}, place)


def _tars(pattern: Path) -> None:
    pattern.parent.mkdir(exist_ok=True)
    for number in range(2):
        with tarfile.open(pattern.parent / f"{number:05d}.tar", "w") as tar:
            for i in range(3):
                data = encoded(i, "JPEG")
                member = tarfile.TarInfo(f"{number}{i}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _parquet(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    pictures = [encoded(i, "JPEG") for i in range(3)]
    parquet.write_table(pa.table({"jpg": pictures, "caption": ["a red circle"] * 3}), file)


MAKERS: dict[str, Callable[[Path], object]] = {
    "photos": _pictures,
    "imagenet/val": _classes,
    "coco": _captioned,
    "files.txt": _list,
    "captions.txt": lambda place: place.write_text("a red circle\ntwo blue squares\n"),
    "data/{00000..00001}.tar": _tars,
    "data/captions.parquet": _parquet,
    "labels.txt": lambda place: place.write_text("a red circle\na blue square\n"),
    "last.pt": _checkpoint,
    "cat.jpg": lambda place: picture(1).save(place),
    "dog.png": lambda place: picture(2).save(place),
    "OLD": lambda place: rows.merge(place, speeds(CPU)),
    "NEW": lambda place: rows.merge(place, speeds(CPU)),
}
EMBEDDINGS = "out"  # a folder that a bulk job wrote
BUNDLES = ("BUNDLE", "demo-bundle", "for-old-servers", "vit-l-14")


def furnish(folder: Path, names: list[str], bundle: Path) -> None:
    """Make those of the names that stand for a file which must be there."""
    for name in dict.fromkeys(name.rstrip("/") for name in names):
        if name in BUNDLES:
            (folder / name).symlink_to(bundle)
        elif name in MAKERS:
            MAKERS[name](folder / name)
        elif name == EMBEDDINGS:
            write_embeddings(folder, bundle, "parquet")


# ---- commands


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.slow) if command.text in SLOW else command
        for command in COMMANDS
        if runs_here(command)
    ],
    ids=lambda command: command.text,
)
def test_it_runs(
    command: Command,
    demo_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    called = program(command)
    assert called is not None
    module, arguments = called
    monkeypatch.chdir(tmp_path)
    made_by_it = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--out"]
    furnish(tmp_path, [word for word in arguments if word not in made_by_it], demo_bundle)
    code = main_of(module)(arguments)
    assert code == 0, (
        f"{command.place}: `{command.text}` exits with {code}: {capfd.readouterr().err.strip()[-500:]}\n"
        "Mend it; or name files that MAKERS makes; or, if it needs what is missing here, list it in NEEDS with that."
    )
    for name in made_by_it:
        assert (tmp_path / name).exists(), f"{command.place}: `{command.text}` made no {name}"


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if not runs_here(command)], ids=lambda command: command.text
)
def test_what_cannot_run_is_parsed_and_has_its_reason(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    first = command.words[0]
    if first == "make":
        subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, check=True)
        return
    assert command.needs_gpu or command.text in LISTED, (
        f"{command.place}: nothing runs `{command.text}`: list it in NEEDS of {Path(__file__).name} with what it needs, or "
        "mark it in the page with a comment `# needs a GPU`"
    )
    for extras in re.findall(r"(?:openclip-engines|^\.| \.|'\.)\[([\w,-]+)\]", command.text):
        for extra in extras.split(","):
            assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(), f"{command.place}: no extra {extra}"
    called = program(command)
    if called is not None:
        module, arguments = called
        parsed = parse(module, arguments, monkeypatch)
        if module == "exporter":
            from exporter.options.export_options import Options
            from exporter.options.flags import from_arguments

            from_arguments(Options, parsed)


class _ParsedError(BaseException):
    """Ends a program once its arguments are parsed."""


def parse(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the program's own parser makes of the arguments; the program ends then."""
    found: list[argparse.Namespace] = []
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> NoReturn:
        found.append(parse_args(self, args, namespace))
        raise _ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        with pytest.raises(_ParsedError):
            main_of(module)(arguments)
    return found[0]


def test_the_table_lists_nothing_else() -> None:
    known = {command.text for command in COMMANDS}
    gone = [text for text in [*LISTED, *SLOW] if text not in known]
    assert not gone, f"no page has the command `{gone[0]}`: take it out of NEEDS or SLOW"


# ---- Python


def constants(block: Block) -> list[str]:
    nodes = ast.walk(ast.parse(block.text))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=pytest.mark.slow) if "packages" in constants(block) else block
        for block in SNIPPETS
        if not needs_gpu(block)
    ],
    ids=str,
)
def test_python_runs(
    block: Block,
    request: pytest.FixtureRequest,
    demo_bundle: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path, constants(block), demo_bundle)
    if "packages" in constants(block):
        (tmp_path / "packages").symlink_to(aotinductor_bundle(tmp_path_factory))
    log = logging.getLogger("engines")
    request.addfinalizer(lambda level=log.level: log.setLevel(level))
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    if "app" in names:
        check_service(names["app"])
    clip = names.get("clip")
    if clip is not None:
        clip.close()
        assert clip.manifest.model.name == "demo"


def check_service(app: Callable[..., list[bytes]]) -> None:
    """A service in WSGI embeds a picture, and answers bytes that are none with the reason."""

    def answer(body: bytes) -> tuple[str, bytes]:
        status: list[str] = []
        environment = {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
        result = b"".join(app(environment, lambda line, headers: status.append(line)))
        return status[0], result

    status, result = answer(encoded(1, "png"))
    assert status == "200 OK"
    assert len(json.loads(result)) == 64
    status, result = answer(b"no picture")
    assert status == "400 Bad Request"
    assert b"image" in result


@pytest.mark.parametrize("block", [block for block in SNIPPETS if needs_gpu(block)], ids=str)
def test_python_for_a_gpu_names_options_that_are_there(block: Block) -> None:
    calls = [node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "engines.load"]
    assert loads, f"{block} shows nothing that can be checked"
    for call in loads:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        kind = ast.literal_eval(given["engine"])
        options = importlib.import_module(KINDS[kind].runtime).Options.__annotations__
        known = {*inspect.signature(engines.load).parameters, *options} - {"options"}
        assert set(given) <= known, f"{block}: engine {kind} has no option {', '.join(map(str, set(given) - known))}"
