"""The spine's figures: start-up, export time and memory, throughput against eager PyTorch: ``make figures``.

Ratios are medians of alternating rounds in one run. Rows go to ``benchmarks/results/figures.csv``, one for each machine and
figure; nothing here decides a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "figures.csv"
COLUMNS = ("model", "figure", "value", "unit", "target", "how", "machine", "versions", "commit")

_PLAIN = "against torch.onnx.export of encode_image, ONNX Runtime's defaults"

_STARTUP = """
import time; start = time.perf_counter()
import sys, engines
imported = time.perf_counter() - start
assert "torch" not in sys.modules
clip = engines.load(sys.argv[1]); clip.encode_text(["a photo of a dog"])
text = time.perf_counter() - start
clip.encode_image([sys.argv[2]])
print(imported, text, time.perf_counter() - start)
assert "torch" not in sys.modules
"""


def machine() -> str:
    """Processor and number of usable cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def measure(model: str, rounds: int) -> list[dict[str, Any]]:
    """All figures of one architecture with random weights."""
    with tempfile.TemporaryDirectory(prefix="figures-") as folder:
        bundle = Path(folder) / "bundle"
        command = [sys.executable, "-m", "exporter", model, "--pretrained", "none", "--out", str(bundle), "--json"]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rows = _export_rows(report)
        rows += _startup_rows(bundle, Path(folder))
        rows += _throughput_rows(model, bundle, rounds)
    return [{"model": model, **row} for row in rows]


def _export_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    stages = report["stages"]
    seconds = sum(stage["seconds"] for stage in stages)
    peak = max(stage["peak_memory_bytes"] for stage in stages)
    weights = 4 * next(stage["parameters"] for stage in stages if "parameters" in stage)
    target = "< 3" if weights < 4e9 else "< 2"
    return [
        _row("export, both towers, gate included", seconds, "s", "< 90", "sum of the report's stages"),
        _row("peak memory of the export / fp32 weights", peak / weights, "ratio", target, "peak resident memory"),
    ]


def _startup_rows(bundle: Path, folder: Path) -> list[dict[str, Any]]:
    from PIL import Image

    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(picture)
    runs = []
    for _ in range(5):
        command = [sys.executable, "-c", _STARTUP, str(bundle), str(picture)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append([float(value) for value in output.split()])
    imported, text, both = np.median(np.array(runs), axis=0)
    how = "median of 5 fresh processes, files in the page cache"
    return [
        _row("import engines", imported, "s", "", how),
        _row("import, load, first text embedding", text, "s", "< 3", how),
        _row("import, load, first text and image embedding", both, "s", "< 3", how),
    ]


def _throughput_rows(model: str, bundle: Path, rounds: int) -> list[dict[str, Any]]:
    import torch

    import engines
    from benchmarks.timing import alternate
    from exporter.parity_data import load_parity_data
    from exporter.source import load_source

    source = load_source(model, "none")
    eager: Any = source.model
    data = load_parity_data(images=16, captions=256)
    rows = []
    with engines.load(bundle) as clip:
        pixels = np.stack([clip.preprocess(image) for image in data.images])
        mean, std = torch.tensor(source.preprocess.mean), torch.tensor(source.preprocess.std)
        normalized = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        ids = source.tokenizer(list(data.captions))  # type: ignore[misc]
        lengths = ids.argmax(dim=1) + 1
        ids = ids[(lengths >= 8) & (lengths <= 25)][:64]
        tokens = ids.numpy().astype(np.int32)

        def eager_images() -> None:
            with torch.inference_mode():
                eager.encode_image(normalized, normalize=True)

        def eager_texts() -> None:
            with torch.inference_mode():
                eager.encode_text(ids, normalize=True)

        plain = _plain_export(eager, normalized, bundle.parent / "plain")
        ways = {"eager": eager_images, "engine": lambda: clip.encode_image(pixels), "plain": plain}
        image = alternate(ways, rounds)
        text = alternate({"eager": eager_texts, "engine": lambda: clip.encode_text(tokens)}, rounds)
    how = f"medians of {rounds} alternating rounds, fp32"
    rows.append(_row("images, batch 16: engine / eager", image["eager"] / image["engine"], "ratio", ">= 0.95", how))
    rows.append(
        _row(
            "images, batch 16: engine / plain export", image["plain"] / image["engine"], "ratio", "", f"{how}; {_PLAIN}"
        )
    )
    rows.append(_row("images, batch 16: engine", len(pixels) / image["engine"], "images/s", "", how))
    name = f"texts of 8-25 tokens, batch {len(ids)}: engine / eager at {ids.shape[1]}"
    rows.append(_row(name, text["eager"] / text["engine"], "ratio", ">= 4", how))
    rows.append(_row(f"texts of 8-25 tokens, batch {len(ids)}: engine", len(ids) / text["engine"], "texts/s", "", how))
    return rows


def _plain_export(eager: Any, normalized: Any, folder: Path) -> Callable[[], object]:
    """The image tower as torch.onnx writes it without this project, in ONNX Runtime as it comes."""
    import onnxruntime
    import torch

    class ImageTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = eager

        def forward(self, image: Any) -> Any:
            return self.clip.encode_image(image, normalize=True)

    folder.mkdir()
    file = folder / "image.onnx"
    rows = ({0: torch.export.Dim.DYNAMIC},)
    torch.onnx.export(ImageTower().eval(), (normalized,), file, dynamo=True, dynamic_shapes=rows, verbose=False)
    session = onnxruntime.InferenceSession(file)
    feed = {session.get_inputs()[0].name: normalized.numpy()}
    return lambda: session.run(None, feed)


def _row(figure: str, value: float, unit: str, target: str, how: str) -> dict[str, Any]:
    return {"figure": figure, "value": f"{value:.3g}", "unit": unit, "target": target, "how": how}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and merge the rows into the results file."""
    from importlib.metadata import version

    from benchmarks.results_file import commit, upsert

    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["ViT-B-32"], help="architectures (default ViT-B-32)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds of the throughput ratios")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the CSV file")
    args = parser.parse_args(argv)
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    for model in args.models:
        rows = [
            row | {"machine": machine(), "versions": versions, "commit": commit()}
            for row in measure(model, args.rounds)
        ]
        upsert(args.results, rows, COLUMNS, key=("model", "figure", "machine"))
        for row in rows:
            print(f"{row['figure']:<60} {row['value']:>8} {row['unit']:<9} {row['target']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
