"""``make demo``: export the bundled model, serve it without PyTorch, classify picture files, and show the figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BUNDLE = Path("demo-bundle")
PICTURES = Path("demo-pictures")
_SHOWN = 6
_BATCH = 32


def main() -> int:
    """Run the demo in the working directory; it leaves `BUNDLE` and `PICTURES` there."""
    import engines
    from exporter.demo.scenes import evaluation_set
    from exporter.errors import ExportError
    from exporter.pipeline import Options, run_export
    from exporter.stages import Stages

    print("Exporting `demo` (python -m exporter demo) …", flush=True)
    try:
        result = run_export(Options(name="demo", out=BUNDLE, force=True), Stages(sys.stderr))
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    scenes = evaluation_set()
    PICTURES.mkdir(exist_ok=True)
    files = []
    for i in range(_SHOWN):
        files.append(PICTURES / f"scene-{i}.png")
        scenes.images[i * 37].save(files[-1])
    with engines.load(BUNDLE) as clip:
        _classify(clip, files, list(scenes.captions))
        rows = _figures(clip, result, scenes)
    print()
    print(_table(("", "eager PyTorch", "engine"), rows))
    print(f"\nThe bundle is {BUNDLE}/: try  python -m engines inspect {BUNDLE}")
    return 0


def _classify(clip: Any, files: list[Path], captions: list[str]) -> None:
    probabilities = clip.classify(files, captions)
    rows = []
    for file, row in zip(files, probabilities, strict=True):
        best = int(np.argmax(row))
        rows.append((str(file), captions[best], f"{row[best]:.1%}"))
    print(f"\n{len(files)} files, {len(captions)} captions, combinations never seen in training:")
    print(_table(("file", "best caption", "probability"), rows))


def _figures(clip: Any, result: Any, scenes: Any) -> list[tuple[str, str, str]]:
    import open_clip
    import torch

    from benchmarks.harness.timing import alternate
    from exporter.demo.zero_shot import open_clip_encoders, top1_accuracy
    from exporter.source.loading import load_source

    source = load_source("demo")
    model: Any = source.model
    transform = open_clip.image_transform(
        source.preprocess.size, is_train=False, mean=source.preprocess.mean, std=source.preprocess.std
    )
    encode_images, encode_texts = open_clip_encoders(model, transform, source.tokenizer)  # type: ignore[arg-type]
    eager_accuracy = top1_accuracy(scenes, encode_images, encode_texts)
    engine_accuracy = top1_accuracy(scenes, clip.encode_image, clip.encode_text)
    pixels = np.stack([clip.preprocess(image) for image in scenes.images[:_BATCH]])
    mean, std = torch.tensor(source.preprocess.mean), torch.tensor(source.preprocess.std)
    normalized = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    captions = list(scenes.captions[:_BATCH])
    ids = source.tokenizer(captions)  # type: ignore[misc]

    def eager_images() -> None:
        with torch.inference_mode():
            model.encode_image(normalized, normalize=True)

    def eager_texts() -> None:
        with torch.inference_mode():
            model.encode_text(ids, normalize=True)

    tokens = clip.tokenize(captions)
    image = alternate({"eager": eager_images, "engine": lambda: clip.encode_image(pixels)})
    text = alternate({"eager": eager_texts, "engine": lambda: clip.encode_text(tokens)})
    parity = result.manifest.parity[-1].towers
    rows = [(f"{name}: min cosine to eager", "", f"{row.min_cosine:.7f}") for name, row in parity.items()]
    rows.append(
        (f"zero-shot top-1, {len(scenes.images)} held-out scenes", f"{eager_accuracy:.1%}", f"{engine_accuracy:.1%}")
    )
    for name, seconds in (("image", image), ("text", text)):
        rate = {way: _BATCH / s for way, s in seconds.items()}
        faster = seconds["eager"] / seconds["engine"]
        rows.append((f"{name}s/s, batch {_BATCH}", f"{rate['eager']:.0f}", f"{rate['engine']:.0f}  ({faster:.2f}x)"))
    return rows


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
