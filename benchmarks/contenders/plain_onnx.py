"""The graph that ``torch.onnx.export`` writes without this project, which the peers run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.eager import load_clip

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject


def plain_graph(folder: Path, tower: str) -> Path:
    """The file of a tower that `export_plain` writes."""
    return folder / f"plain-{tower}.onnx"


def export_plain(subject: Subject, tower: str, folder: Path) -> None:
    """Export one tower: normalized float pixels (N, 3, H, W) or int64 ids (N, L) to normalized embeddings, any batch.

    A second call finds the file and does nothing.
    """
    import torch

    path = plain_graph(folder, tower)
    if path.exists():
        return
    model, _, _ = load_clip(subject)

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = model

        def forward(self, x: Any) -> Any:
            encode = self.clip.encode_image if tower == "image" else self.clip.encode_text
            return encode(x, normalize=True)

    if tower == "image":
        example = torch.zeros(2, 3, *subject.size)
    else:
        example = torch.ones(2, subject.context_length, dtype=torch.long)
    temporary = path.with_name(f"writing-{path.name}")
    rows = ({0: torch.export.Dim.DYNAMIC},)
    torch.onnx.export(Tower().eval(), (example,), temporary, dynamo=True, dynamic_shapes=rows, verbose=False)
    # The graph names its weights' file, so that one keeps its name.
    temporary.replace(path)


def plain_inputs(subject: Subject, kind: str, inputs: Any) -> list[Any]:
    """A case's sets as inputs of the plain graph."""
    import numpy as np

    if kind == "ids":
        return [rows.astype(np.int64) for rows in inputs]
    mean, std = (np.asarray(values, dtype=np.float32) for values in (subject.mean, subject.std))
    floats = [(rows.astype(np.float32) / 255 - mean) / std for rows in inputs]
    return [np.ascontiguousarray(rows.transpose(0, 3, 1, 2)) for rows in floats]
