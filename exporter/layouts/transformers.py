"""The layout of a folder that Optimum's ``ORTModelForZeroShotImageClassification`` and transformers.js load.

    config.json  preprocessor_config.json  README.md
    tokenizer.json  tokenizer_config.json  special_tokens_map.json  vocab.json  merges.txt
    onnx/model.onnx  onnx/text_model.onnx  onnx/vision_model.onnx      fp32; with _fp16 and _quantized (int8) before .onnx

Several bundles of one model in different precisions share a folder. It appears in one rename, after its graphs were compared with
the bundles' engines.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import onnx_ir as ir

from engines.bundle_files import verify_files
from engines.errors import EngineError
from engines.files.checksums import file_sha256
from engines.manifest import Manifest, read_manifest
from exporter.errors import ExportError
from exporter.layouts.clip_tokenizer import write_tokenizer_files
from exporter.layouts.graphs import INLINE_BYTES, image_graph, joined_graph, save_graph, text_graph
from exporter.layouts.measurement import Measurement, measure
from exporter.layouts.model_card import advice, model_card
from exporter.layouts.model_config import write_configs
from exporter.layouts.support import SUFFIXES, check_supported

CARD = "README.md"


def write_layout(
    bundles: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    inline_bytes: int = INLINE_BYTES,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Measurement, ...]:
    """Write one or more bundles of one model as a folder for Optimum and transformers.js.

    Args:
        bundles: the bundles' folders, each of another precision: fp32, fp16 or int8.
        out: the folder to write.
        force: whether to replace a layout that is there.
        inline_bytes: the largest size of weights that are written into a graph; larger weights come into a file beside it.
        note: a function that takes sentences for the user.

    Returns:
        The figures of each bundle.

    Raises:
        ExportError: a bundle cannot be read, transformers' CLIP does not describe its model, the bundles are not of one model,
            `out` exists or cannot be written, or an embedding differs from the bundle's by more than 1e-5.
    """
    path = Path(os.path.abspath(out))
    check_destination(path, force)
    with _sentences(path):
        opened = _open(bundles)
        with _unfinished(path) as folder:
            measurements, beside = _write(opened, folder, inline_bytes)
            manifests = [manifest for _, manifest in opened]
            (folder / CARD).write_text(model_card(manifests, measurements, beside), encoding="utf-8")
            if path.exists():
                shutil.rmtree(path)
            folder.rename(path)
    sentence = advice([manifest.precision for manifest in manifests])
    if sentence is not None:
        note(f"{path}: {sentence}")
    return tuple(measurements)


def layout_folder(bundle: Path, layout: str | None, force: bool) -> Path | None:
    """The folder ``<bundle>--<layout>`` for the option ``--layout``; None without the option.

    Raises:
        ExportError: see `check_destination`.
    """
    if layout is None:
        return None
    bundle = Path(os.path.abspath(bundle))
    folder = bundle.with_name(f"{bundle.name}--{layout}")
    check_destination(folder, force)
    return folder


def check_destination(out: Path, force: bool) -> None:
    """Refuse a path where no layout may be written.

    Raises:
        ExportError: `out` is a link or a file, or a folder that is neither empty nor a layout, or a layout without `force`.
    """
    if out.is_symlink():
        raise ExportError(f"{out} is a link: name the folder it leads to, or another one")
    if out.is_dir() and any(out.iterdir()):
        if not ((out / "onnx").is_dir() and (out / CARD).is_file() and (out / "config.json").is_file()):
            raise ExportError(f"{out} exists and is no layout: name another folder; nothing there was touched")
        if not force:
            raise ExportError(f"{out} exists: pass --force to replace it, or name another folder")
    elif not out.is_dir() and out.exists():
        raise ExportError(f"{out} exists and is a file: name another folder")


def _open(bundles: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Manifest]]:
    """Read and check the bundles, the most exact first."""
    order = list(SUFFIXES)
    opened = [(Path(bundle), read_manifest(bundle)) for bundle in bundles]
    if not opened:
        raise ExportError("no bundle is named: name at least one")
    for folder, manifest in opened:
        check_supported(manifest)
        verify_files(folder, manifest)
    opened.sort(key=lambda item: order.index(item[1].precision))
    (first_folder, first), *others = opened
    for place, (folder, manifest) in enumerate(others, 1):
        if manifest.precision == opened[place - 1][1].precision:
            raise ExportError(f"{folder} and {opened[place - 1][0]} are both in {manifest.precision}: name one of them")
        if _identity(first_folder, first) != _identity(folder, manifest):
            raise ExportError(
                f"{folder} and {first_folder} are of different models, or were exported with different options: lay them out in "
                "two folders"
            )
    return opened


def _identity(folder: Path, manifest: Manifest) -> tuple[object, ...]:
    """All that must be the same in bundles of one model."""
    assert manifest.tokenizer is not None
    model = msgspec.structs.replace(manifest.model, name="")
    return model, manifest.preprocess, manifest.tokenizer, file_sha256(folder / manifest.tokenizer.file)


def _write(
    opened: Sequence[tuple[Path, Manifest]], folder: Path, inline_bytes: int
) -> tuple[list[Measurement], list[str]]:
    """Write all files but the card; returns the figures, and the graphs whose weights are beside them."""
    (bundle, first), graphs = opened[0], folder / "onnx"
    graphs.mkdir()
    assert first.tokenizer is not None
    write_tokenizer_files(bundle, first.tokenizer, folder)
    beside = []
    for bundle, manifest in opened:
        for name, graph in _graphs(bundle, manifest):
            if save_graph(graph, graphs / name, inline_bytes):
                beside.append(name)
    write_configs(first, folder, beside)
    return [measure(bundle, manifest, folder) for bundle, manifest in opened], beside


def _graphs(bundle: Path, manifest: Manifest) -> Iterator[tuple[str, ir.Model]]:
    """The names and graphs of a bundle's three files, each made when its turn comes."""
    suffix = SUFFIXES[manifest.precision]
    yield f"text_model{suffix}.onnx", text_graph(bundle, manifest)
    yield f"vision_model{suffix}.onnx", image_graph(bundle, manifest)
    towers = text_graph(bundle, manifest), image_graph(bundle, manifest)
    yield f"model{suffix}.onnx", joined_graph(*towers, manifest.model.logit_scale)


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which is removed unless it was renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _sentences(out: Path) -> Iterator[None]:
    """Turn errors of bundles and of the file system into an `ExportError`."""
    try:
        yield
    except EngineError as error:
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(
            f"cannot write {out}: {error.strerror or error}; name another folder or free space"
        ) from error
