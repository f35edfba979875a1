"""The options of an export, each described once: `exporter.pipeline.export` takes them by name, the command line as flags."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engines.engine_kinds import KINDS
from engines.manifest import TowerName
from engines.precisions import PRECISIONS
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions
from exporter.options.flags import alternatives, convert_fields, flag, nested, positional, several

ImageInputDtype = Literal["uint8", "float32"]
Layout = Literal["transformers"]
TOWERS: tuple[TowerName, ...] = get_args(TowerName)
# The first opset with Attention as one operator, which also takes is_causal; and the first in which all towers can be expressed.
DEFAULT_OPSET, OLDEST_OPSET = 23, 18
_QUANTIZATION = "int8 and fp8"


def _opset(number: int) -> int:
    if not OLDEST_OPSET <= number <= DEFAULT_OPSET:
        raise ExportError(f"opset {number} is none of {OLDEST_OPSET} to {DEFAULT_OPSET}")
    return number


@dataclass(frozen=True)
class Options:
    """The arguments of `exporter.pipeline.export`, which documents them; a path may be a str, a sequence may be of any kind."""

    name: str = positional(
        metavar="MODEL", help="architecture, hf-hub:org/repo, local-dir:PATH or demo; doctor: what this machine can do"
    )
    pretrained: str | None = flag(
        None,
        "--pretrained",
        metavar="TAG|PATH|none",
        convert=os.fspath,
        help="tag, checkpoint file, or none for random weights (default: the best published tag with a permissive licence)",
    )
    precision: str = alternatives("fp32", [(f"--{name}", name, entry.flag_help) for name, entry in PRECISIONS.items()])
    engines: tuple[str, ...] = flag(
        ("auto",),
        "--engine",
        action="append",
        metavar="NAME",
        convert=several,
        help=f"{', '.join(KINDS)} or auto (default: tensorrt beside a GPU, else onnxruntime; for int8 tensorrt-rtx for sm80, too, "
        "where it is installed); repeatable",
    )
    engine_options: EngineOptions = nested(
        EngineOptions, "engines that are built (aotinductor takes --target and --batch)"
    )
    towers: tuple[TowerName, ...] = flag(
        TOWERS, "--towers", metavar="NAMES", convert=several, help="image,text (default), image or text"
    )
    image_input: ImageInputDtype = flag(
        "uint8",
        "--image-input",
        choices=get_args(ImageInputDtype),
        help="uint8: NHWC pixels, normalized in the graph (default); float32: normalized NCHW",
    )
    opset: int = flag(
        DEFAULT_OPSET,
        "--opset",
        type=int,
        metavar="N",
        convert=_opset,
        help=f"ONNX operators of the graphs, {OLDEST_OPSET} to {DEFAULT_OPSET}; an older opset is for older runtimes and importers "
        f"(default: {DEFAULT_OPSET})",
    )
    parity_data: Path | None = flag(
        None,
        "--parity-data",
        metavar="DIR",
        convert=Path,
        help="images, and optionally captions.txt, for the parity gate",
    )
    parity_samples: int | None = flag(
        None, "--parity-samples", type=int, metavar="N", help="images for the gate (default: 64, fewer if slow)"
    )
    calibration: Path | None = flag(
        None,
        "--calibration",
        group=_QUANTIZATION,
        metavar="DIR|FILE",
        convert=Path,
        help="images like those to be embedded, at least 128: a folder, a webdataset .tar, or a text file of paths",
    )
    calibration_captions: Path | None = flag(
        None,
        "--calibration-captions",
        group=_QUANTIZATION,
        metavar="FILE",
        convert=Path,
        help="texts, one a line (default: captions.txt in the folder, or open_clip's prompts)",
    )
    calibration_samples: int | None = flag(
        None,
        "--calibration-samples",
        group=_QUANTIZATION,
        type=int,
        metavar="N",
        help="images to take ranges from (default: 512)",
    )
    evaluate: Path | None = flag(
        None,
        "--evaluate",
        metavar="DIR|FILE",
        convert=Path,
        help="labelled images (a folder for each class, or a webdataset): the gate also compares the task's accuracy with eager's",
    )
    allow_accuracy_loss: bool = flag(
        False,
        "--allow-accuracy-loss",
        help="write the bundle even if the gate fails, and record it; not where an engine gives NaN or infinity",
    )
    keep_activation: bool = flag(
        False,
        "--keep-activation",
        help="keep the architecture's activation where the tag was trained with the other one",
    )
    out: Path | None = flag(
        None, "--out", metavar="DIR", convert=Path, help="the bundle's folder (default: MODEL--TAG--PRECISION)"
    )
    layout: Layout | None = flag(
        None,
        "--layout",
        choices=get_args(Layout),
        help="also write BUNDLE--transformers, a folder that Optimum and transformers.js load",
    )
    force: bool = flag(False, "--force", help="replace a bundle that is there")
    cache_dir: Path | None = flag(None, "--cache-dir", metavar="DIR", convert=Path, help="where checkpoints are kept")

    def __post_init__(self) -> None:
        convert_fields(self)
