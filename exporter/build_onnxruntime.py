"""ONNX Runtime as an engine: it runs the bundle's ONNX graph as it is, so there is nothing to build but its entry."""

from __future__ import annotations

from engines.manifest import BatchProfile, Engine, Target, TowerName
from exporter.errors import ExportError
from exporter.onnx_graph import OnnxGraph

KIND = "onnxruntime"


def check() -> None:
    """Refuse early where ONNX Runtime is missing.

    Raises:
        ExportError: with the command that installs it.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ExportError(
            "engine onnxruntime needs ONNX Runtime: pip install 'openclip-engines[cpu]' "
            "(or 'openclip-engines[gpu]' on a machine with an NVIDIA GPU)"
        ) from error


def build(tower: TowerName, graph: OnnxGraph) -> Engine:
    """The manifest's entry: any batch size, any device that the library supports."""
    import onnxruntime

    return Engine(
        kind=KIND,
        tower=tower,
        file=graph.path.name,
        target=Target(library="onnxruntime", version=onnxruntime.__version__),
        batch=BatchProfile(),
    )
