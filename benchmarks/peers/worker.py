"""A program that one library runs in: one line of JSON in is one call or several, and one line of JSON answers it.

The interpreter is that of the library's environment, which has neither this project nor NumPy for certain: so this file imports
nothing but the standard library until a library is opened, and nothing of this project but `engines`, for its own engines. It is
run by its path, isolated: ``python -I worker.py KIND FOLDER THREADS``.
"""

from __future__ import annotations

import array
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Encode = Callable[[list[Any]], Any]  # a list of files' bytes, or of captions, to embeddings (N, D)


class Opened:
    """A library with its model.

    Attributes:
        encode: ``image`` and ``text`` to the call that a user of the library makes.
        packages: the distributions that compute.
    """

    def __init__(self, image: Encode, text: Encode, packages: Sequence[str]) -> None:
        self.encode: dict[str, Encode] = {"image": image, "text": text}
        self.packages = packages


def open_engines(folder: str, threads: int, engine: str) -> Opened:
    """This project's runtime: a bundle, and a kind of its engines."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    import engines

    load: Any = engines.load
    clip = load(folder, engine, "cpu", workers=threads, threads=threads)
    return Opened(clip.encode_image, clip.encode_text, (engine,))


def open_transformers(folder: str, threads: int) -> Opened:
    """CLIPModel in eager PyTorch, with its processor; texts are padded to the longest of the call, as its documentation does."""
    import torch
    from transformers import AutoProcessor, CLIPModel

    torch.set_num_threads(threads)
    model, processor = CLIPModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)

    def image(files: list[bytes]) -> Any:
        with torch.inference_mode():
            return _features(model.get_image_features(**processor(images=_pictures(files), return_tensors="pt")))

    def text(captions: list[str]) -> Any:
        inputs = processor(text=captions, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return _features(model.get_text_features(**inputs))

    return Opened(image, text, ("transformers", "torch"))


def open_optimum(folder: str, threads: int) -> Opened:
    """Optimum's ONNX export of each tower, run by its classes for ONNX Runtime."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCustomTasks
    from transformers import AutoProcessor

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    processor = AutoProcessor.from_pretrained(folder)
    towers = {
        tower: ORTModelForCustomTasks.from_pretrained(str(Path(folder) / tower), session_options=options)
        for tower in ("image", "text")
    }

    def image(files: list[bytes]) -> Any:
        inputs = processor(images=_pictures(files), return_tensors="np")
        return towers["image"](pixel_values=inputs["pixel_values"])["image_embeds"]

    def text(captions: list[str]) -> Any:
        inputs = processor(text=captions, padding=True, truncation=True, return_tensors="np")
        wanted = {name: value for name, value in inputs.items() if name in towers["text"].input_names}
        return towers["text"](**wanted)["text_embeds"]

    return Opened(image, text, ("optimum-onnx", "transformers", "onnxruntime"))


def open_infinity(folder: str, threads: int) -> Opened:
    """infinity's engine inside the process: its batching, without its HTTP server."""
    import torch
    from infinity_emb import EngineArgs, SyncEngineArray

    torch.set_num_threads(threads)
    args = EngineArgs(
        model_name_or_path=folder, engine="torch", device="cpu", dtype="float32", served_model_name="clip"
    )
    running = SyncEngineArray.from_args([args])

    def image(files: list[bytes]) -> Any:
        return running.image_embed(model="clip", images=files).result()[0]

    def text(captions: list[str]) -> Any:
        return running.embed(model="clip", sentences=captions).result()[0]

    return Opened(image, text, ("infinity-emb", "transformers", "torch"))


def open_modern_onnx_clip(folder: str, threads: int) -> Opened:
    """modern-onnx-clip: NumPy, Pillow and ONNX Runtime."""
    from onnx_clip import OnnxClip

    clip = OnnxClip(folder, silent=True)
    return Opened(
        lambda files: clip.get_image_embedding(_pictures(files)),
        clip.get_text_embedding,
        ("modern-onnx-clip", "onnxruntime"),
    )


def open_faster_clip(folder: str, threads: int) -> Opened:
    """faster-clip: a Rust engine, with a cache that holds the weights under the name that it downloads."""
    os.environ["FASTER_CLIP_CACHE"] = folder
    from faster_clip import ClipModel

    clip = ClipModel()
    return Opened(clip.encode_image, clip.encode_text, ("faster-clip",))


OPENERS: dict[str, Callable[[str, int], Opened]] = {
    "onnxruntime": lambda folder, threads: open_engines(folder, threads, "onnxruntime"),
    "openvino": lambda folder, threads: open_engines(folder, threads, "openvino"),
    "transformers": open_transformers,
    "optimum": open_optimum,
    "infinity": open_infinity,
    "modern-onnx-clip": open_modern_onnx_clip,
    "faster-clip": open_faster_clip,
}


def main(arguments: Sequence[str]) -> None:
    """Open the library, and answer until the input ends.

    A line asks for calls: ``{"tower": "image", "items": FILE, "calls": 2, "save": FILE or null}``. The items are a JSON list of
    picture files or captions. Pictures are read before the time begins: a call takes a file's bytes and decodes them. The answer
    is ``{"seconds": [one for each call], "shape": [N, D]}``, or ``{"error": "one line"}``. ``save`` is a file for the
    last call's embeddings, float32 (N, D), without a header.

    Args:
        arguments: the kind of library, its model's folder and the number of threads.
    """
    kind, folder, threads = arguments[0], arguments[1], int(arguments[2])
    answers = _own_output()
    _limit_threads(threads)
    opened = OPENERS[kind](folder, threads)
    _print(answers, {"versions": _versions(opened.packages)})
    inputs: dict[str, list[Any]] = {}
    for line in sys.stdin:
        try:
            answer = _answer(opened, json.loads(line), inputs)
        except Exception as error:  # noqa: BLE001 - whatever a library raises is its answer
            words = (str(error).strip() or "no message").splitlines()[0]
            answer = {"error": f"{type(error).__name__}: {words}"[:300]}
        _print(answers, answer)


def _answer(opened: Opened, order: dict[str, Any], inputs: dict[str, list[Any]]) -> dict[str, Any]:
    tower, file = order["tower"], order["items"]
    if file not in inputs:
        names = json.loads(Path(file).read_text(encoding="utf-8"))
        inputs[file] = [Path(name).read_bytes() for name in names] if tower == "image" else names
    seconds: list[float] = []
    embeds: Any = ()
    for _ in range(order["calls"]):
        start = time.perf_counter()
        embeds = opened.encode[tower](inputs[file])
        seconds.append(time.perf_counter() - start)
    rows = [[float(value) for value in row] for row in embeds] if order["save"] else []
    if rows:
        with open(order["save"], "wb") as out:
            array.array("f", [value for row in rows for value in row]).tofile(out)
    return {"seconds": seconds, "shape": [len(rows), len(rows[0])] if rows else []}


def _pictures(files: Sequence[bytes]) -> list[Any]:
    from PIL import Image

    return [Image.open(io.BytesIO(data)) for data in files]


def _features(output: Any) -> Any:
    """The embeddings of ``get_image_features``: a tensor, and from transformers 5 on an object that holds it."""
    return getattr(output, "pooler_output", output)


def _own_output() -> Any:
    """Standard output for answers alone: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _limit_threads(threads: int) -> None:
    """No library may use more threads or cores, and none looks for its model in the network."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DO_NOT_TRACK": "1"}
    os.environ["INFINITY_ANONYMOUS_USAGE_STATS"] = "0"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _versions(packages: Sequence[str]) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(found)


def _print(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
