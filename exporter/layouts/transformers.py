"""The layout that Optimum's ``ORTModelForZeroShotImageClassification`` and transformers.js load, made from finished bundles."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import EngineError
from engines.manifest import Manifest, read_manifest
from exporter.errors import ExportError
from exporter.layouts.card import layout_card
from exporter.layouts.differences import Differences, measure
from exporter.layouts.graphs import joint_graph, save_graph, text_graph, vision_graph
from exporter.layouts.refusals import SUFFIXES, why_not
from exporter.layouts.tokenizer_files import write_tokenizer_files

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


@dataclass(frozen=True)
class Layout:
    """A written layout: its folder, and what was measured for each precision."""

    path: Path
    differences: dict[str, Differences]


def write_layout(bundles: Sequence[Path], out: Path) -> Layout:
    """Write the layout of one model's bundles, one for each precision, and measure what the other programs' inputs change.

    Args:
        bundles: folders of the same model in different precisions; fp32 has the file names that are loaded by default.
        out: the folder to make; it must not exist, or be empty.

    Raises:
        ExportError: a bundle cannot be read, has no class there, is of another model, or has the precision of another; or `out` is
            not empty.
    """
    check_folder(out)
    manifests = _checked(bundles)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        differences = _write(manifests, work)
        if out.is_dir():
            out.rmdir()
        work.chmod(0o755)
        os.replace(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Layout(out, differences)


def folder_beside(bundle: Path) -> Path:
    """The folder of the layout that an export writes beside its bundle."""
    return bundle.with_name(f"{bundle.name}-transformers")


def check_folder(out: Path) -> None:
    """Raise an `ExportError` if `out` has something in it already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists: name a folder that does not exist, or remove it")


def format_layout(layout: Layout) -> str:
    """The layout's folder, and for each precision the difference on equal inputs and the loader's own cosines."""
    lines = [str(layout.path)]
    for precision, found in layout.differences.items():
        line = f"  {precision:<5} max abs difference on equal inputs {found.same_input:.1e}"
        if found.pictures is not None and found.captions is not None:
            line += f"; with the loader's own resize min cosine {found.pictures[0]:.4f}, own cleaning {found.captions[0]:.4f}"
        lines.append(line)
    return "\n".join(lines)


def _checked(bundles: Sequence[Path]) -> dict[Path, Manifest]:
    manifests: dict[Path, Manifest] = {}
    for bundle in bundles:
        try:
            manifest = read_manifest(bundle)
        except EngineError as error:
            raise ExportError(str(error)) from None
        why = why_not(manifest)
        if why is not None:
            raise ExportError(f"{manifest.model.name} {why}")
        for other in manifests.values():
            if other.precision == manifest.precision:
                raise ExportError(
                    f"{bundle}: another bundle is in {manifest.precision}, too; pass one for each precision"
                )
            same = (other.model, other.preprocess, other.tokenizer) == (
                manifest.model,
                manifest.preprocess,
                manifest.tokenizer,
            )
            if not same:
                raise ExportError(f"{bundle} is of {manifest.model.name}, or of other weights than the first bundle")
        manifests[bundle] = manifest
    return dict(sorted(manifests.items(), key=lambda item: list(SUFFIXES).index(item[1].precision)))


def _write(manifests: dict[Path, Manifest], work: Path) -> dict[str, Differences]:
    from engines import load

    (work / "onnx").mkdir()
    first, manifest = next(iter(manifests.items()))
    assert manifest.tokenizer is not None
    _json(work / "config.json", _config(manifest))
    _json(work / "preprocessor_config.json", _preprocessor(manifest))
    write_tokenizer_files(first / manifest.tokenizer.file, work, manifest.tokenizer.context_length)
    differences: dict[str, Differences] = {}
    for bundle, entry in manifests.items():
        suffix = SUFFIXES[entry.precision]
        text, vision = text_graph(bundle, entry), vision_graph(bundle, entry)
        joint = joint_graph(text, vision, entry.model.logit_scale)
        for name, graph in (("text_model", text), ("vision_model", vision), ("model", joint)):
            save_graph(graph, work / "onnx" / f"{name}{suffix}.onnx")
        del text, vision, joint
        with load(bundle, engine="onnxruntime", device="cpu") as clip:
            differences[entry.precision] = measure(clip, work, suffix)
    (work / "README.md").write_text(layout_card(manifest, differences), encoding="utf-8")
    return differences


def _config(manifest: Manifest) -> dict[str, Any]:
    tokenizer, width = manifest.tokenizer, manifest.model.embed_dim
    assert tokenizer is not None
    height, _ = manifest.preprocess.size
    text = {
        "model_type": "clip_text_model",
        "projection_dim": width,
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": tokenizer.context_length,
        "bos_token_id": tokenizer.end_id - 1,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.end_id,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": width,
        "logit_scale_init_value": math.log(manifest.model.logit_scale),
        "text_config": text,
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": width, "image_size": height},
    }


def _preprocessor(manifest: Manifest) -> dict[str, Any]:
    preprocess = manifest.preprocess
    height, width = preprocess.size
    squash = preprocess.resize_mode == "squash"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width} if squash else {"shortest_edge": min(height, width)},
        "resample": _RESAMPLE[preprocess.interpolation],
        "do_center_crop": not squash,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
