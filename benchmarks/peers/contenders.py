"""The contenders: this project's engines and precisions, and the libraries that people serve CLIP with today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ENVIRONMENTS = Path(".venv-peers")  # below the working directory, ignored by git
MODELS = ENVIRONMENTS / "models"
TOWERS = ("image", "text")


@dataclass(frozen=True)
class Contender:
    """A library with a model.

    Attributes:
        name: the name for ``--only``, and the column `engine` of rows.
        precision: of the weights.
        kind: the library's name for `benchmarks.peers.worker`.
        folder: the model's folder below the models' one.
        environment: the environment's name; empty: this interpreter.
        ours: whether it is an engine of this project.
        note: a remark for readers.
        lacks: tower → the reason why the library cannot embed with it.
    """

    name: str
    precision: str
    kind: str
    folder: str
    environment: str = ""
    ours: bool = False
    note: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        """``onnxruntime int8``, for people."""
        return f"{self.name} {self.precision}"


# The first is the one that all embeddings are compared with.
OURS = tuple(
    Contender(kind, precision, kind, precision, ours=True)
    for precision in ("fp32", "int8")
    for kind in ("onnxruntime", "openvino")
)
PEERS = (
    Contender("transformers", "fp32", "transformers", "transformers", note="eager PyTorch"),
    Contender("optimum", "fp32", "optimum", "optimum", "optimum", note="each tower exported by itself"),
    Contender("infinity", "fp32", "infinity", "infinity", "infinity", note="its engine in the process, without HTTP"),
    Contender("modern-onnx-clip", "fp32", "modern-onnx-clip", "modern-onnx-clip", "modern-onnx-clip"),
    Contender(
        "faster-clip",
        "int8",
        "faster-clip",
        "faster-clip",
        "faster-clip",
        note="int8 weights, float32 arithmetic",
        lacks={"text": "its texts are embedded by another model, a multilingual DistilBERT"},
    ),
)
CONTENDERS = (*OURS, *PEERS)
REFERENCE = OURS[0]


def chosen(only: list[str] | None) -> list[Contender]:
    """The contenders with these names, and the one that all are compared with; None: all.

    Raises:
        ValueError: a name is none of theirs.
    """
    names = {name for contender in CONTENDERS for name in (contender.name, contender.label)}
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(dict.fromkeys(c.name for c in CONTENDERS))}")
    return [c for c in CONTENDERS if only is None or c is REFERENCE or c.name in only or c.label in only]
