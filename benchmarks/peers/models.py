"""One model's weights in every contender's own form: this project's bundles, transformers' folder, the peers' exports."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import MODELS, Contender
from benchmarks.peers.environments import interpreter, run_quietly

_HERE = Path(__file__).resolve().parent
_CALIBRATION_IMAGES = 256
_GATE_SAMPLES = "16"
_REPOSITORY = (
    "sentence-transformers__clip-ViT-B-32/0_CLIPModel"  # the name under which faster-clip looks for its weights
)


def model_folder(model: str) -> Path:
    """The folder with all forms of a model."""
    return MODELS.absolute() / model


def failure_file(model: str, contender: Contender) -> Path:
    """The file with the reason why a contender's model could not be made."""
    return model_folder(model) / f"{contender.folder}.failed.txt"


def prepare_model(model: str, contender: Contender) -> str | None:
    """Make a contender's model unless it is there.

    Args:
        model: an architecture, with random weights of seed 0, or ``demo``.
        contender: whose environment is prepared.

    Returns:
        None, or the reason why it could not be made, which is kept in `failure_file`, too.
    """
    folder, failed = model_folder(model), failure_file(model, contender)
    out = folder / contender.folder
    if out.exists():
        return None
    failed.unlink(missing_ok=True)
    partial = folder / f"{contender.folder}.unfinished"
    shutil.rmtree(partial, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        problem = _export(model, contender, partial) if contender.ours else _MAKERS[contender.kind](model, partial)
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        shutil.rmtree(partial, ignore_errors=True)
        failed.write_text(problem, encoding="utf-8")
        return problem
    partial.rename(out)
    return None


def _export(model: str, contender: Contender, out: Path) -> str | None:
    """A bundle with the engines ONNX Runtime and OpenVINO."""
    command = [sys.executable, "-m", "exporter", model, f"--{contender.precision}", "--out", str(out)]
    command += [] if model == "demo" else ["--pretrained", "none"]
    command += ["--engine", "onnxruntime", "--engine", "openvino", "--parity-samples", _GATE_SAMPLES]
    if contender.precision == "int8":
        command += ["--calibration", str(_calibration(model_folder(model) / "calibration"))]
    return run_quietly(command)


def _calibration(folder: Path) -> Path:
    """A folder of natural pictures, other ones than those that are timed."""
    from exporter.reference.parity_data import load_parity_data

    if not folder.exists():
        partial = folder.with_name("calibration.unfinished")
        partial.mkdir(exist_ok=True)
        for i, picture in enumerate(load_parity_data(None, images=_CALIBRATION_IMAGES, captions=1, seed=2).images):
            picture.thumbnail((512, 512))
            picture.save(partial / f"{i:03}.png")
        partial.rename(folder)
    return folder


def _source(model: str) -> Any:
    from exporter.source.loading import load_source

    return load_source(model, None if model == "demo" else "none")


def _transformers(model: str, out: Path) -> None:
    from benchmarks.peers.transformers_folder import write_transformers_folder

    write_transformers_folder(_source(model), out)


def _infinity(model: str, out: Path) -> None:
    """transformers' folder, with the length of texts in the configuration.

    Without it infinity takes transformers' default for generated texts, 20, and cuts longer captions off.
    """
    source = model_folder(model) / "transformers"
    out.mkdir()
    for file in source.iterdir():
        (out / file.name).symlink_to(Path("..") / "transformers" / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["max_length"] = config["text_config"]["max_position_embeddings"]
    (out / "config.json").unlink()
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _optimum(model: str, out: Path) -> str | None:
    return _own_export(interpreter("optimum"), "optimum", str(model_folder(model) / "transformers"), str(out))


def _modern_onnx_clip(model: str, out: Path) -> str | None:
    import safetensors.torch

    weights = model_folder(model) / "open_clip.safetensors"
    if not weights.exists():
        state = _source(model).model.state_dict()
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, weights)
    packages = next(iter(interpreter("modern-onnx-clip").parents[1].glob("lib/python*/site-packages")))
    return _own_export(Path(sys.executable), "modern-onnx-clip", str(weights), str(out), model, str(packages))


def _faster_clip(model: str, out: Path) -> None:
    place = out / _REPOSITORY
    place.mkdir(parents=True)
    (place / "model.safetensors").symlink_to(model_folder(model) / "transformers" / "model.safetensors")


def _own_export(python: Path, *arguments: str) -> str | None:
    return run_quietly([str(python), "-I", str(_HERE / "peer_exports.py"), *arguments])


# In the environment's interpreter, where the peer has an exporter of its own; all others start from transformers' folder.
_MAKERS: dict[str, Callable[[str, Path], str | None]] = {
    "transformers": _transformers,
    "optimum": _optimum,
    "infinity": _infinity,
    "modern-onnx-clip": _modern_onnx_clip,
    "faster-clip": _faster_clip,
}
