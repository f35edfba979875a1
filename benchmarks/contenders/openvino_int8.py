"""OpenVINO with the int8 quantization of its own tool, NNCF, on a plain export: the peer of int8 bundles on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Contender, missing_library
from benchmarks.contenders.openvino import OpenVINOTower, openvino_core
from benchmarks.contenders.plain_onnx import export_plain, plain_graph, plain_inputs
from benchmarks.workloads.inputs import caption_ids

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject

_SAMPLES = 128  # pictures or captions of the calibration


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """OpenVINO, NNCF, or what the export needs, is missing."""
    return missing_library("openvino", "nncf", "onnxscript", "open_clip")


def setup(subject: Subject, contender: Contender, tower: str, folder: Path) -> None:
    """Export the tower and quantize it as NNCF's guide for transformers says."""
    path = _quantized(folder, tower)
    if path.exists():
        return
    export_plain(subject, tower, folder)
    import nncf
    import openvino

    rows = plain_inputs(subject, "ids" if tower == "text" else "pixels", [_calibration(subject, tower)])[0]
    data = nncf.Dataset([rows[i : i + 1] for i in range(len(rows))])
    model = openvino_core().read_model(str(plain_graph(folder, tower)))
    quantized = nncf.quantize(
        model,
        data,
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(rows),
    )
    temporary = path.with_name(f"writing-{path.name}")
    openvino.save_model(quantized, temporary, compress_to_fp16=False)
    temporary.with_suffix(".bin").replace(path.with_suffix(".bin"))
    temporary.replace(path)


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> OpenVINOTower:
    """Compile the quantized tower for one request at a time on all cores."""
    import nncf
    import openvino

    core = openvino_core()
    compiled = core.compile_model(
        core.read_model(str(_quantized(folder, tower))), "CPU", {"PERFORMANCE_HINT": "LATENCY"}
    )
    opened = OpenVINOTower(compiled, subject, f"openvino {openvino.__version__.split('-')[0]} nncf {nncf.__version__}")
    opened.note = "plain torch.onnx.export, quantized by NNCF (transformer, mixed)"
    return opened


def _quantized(folder: Path, tower: str) -> Path:
    return folder / f"nncf-{tower}.xml"


def _calibration(subject: Subject, tower: str) -> Any:
    """Natural pictures (N, H, W, 3) uint8 or captions' ids (N, L)."""
    if tower == "text":
        return caption_ids(subject, _SAMPLES)
    import numpy as np
    from PIL import Image

    from exporter.reference.parity_data import load_parity_data

    height, width = subject.size
    images = load_parity_data(None, images=_SAMPLES, captions=1, seed=1).images
    pictures = [image.resize((width, height), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(picture) for picture in pictures])
