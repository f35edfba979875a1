"""PyTorch's translation of a module to ONNX, kept on disk for all test files and workers of a session.

Most exports in tests are about what comes before and after the translation, which took three to four of their seconds. A
translation is kept by the module's attributes, weights and code, the example and the options. Only `torch.onnx.export` is replaced:
passes, files, gates and engines are made by each test. A translation that was kept differs from a new one in some nodes' names.
Nothing is imported that a test has not imported.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from made_once import made_once

if TYPE_CHECKING:
    import torch

_LARGEST = 100 << 20  # bytes of a module: larger ones are translated as they come


def keep_translations(session: Path) -> None:
    """Replace `torch.onnx.export`, where it has been imported.

    Args:
        session: the `made_once.session_folder`.
    """
    onnx = sys.modules.get("torch.onnx")
    if onnx is None or hasattr(onnx.export, "translate"):
        return
    # As on a bare image with a GPU, where nothing is exported.
    if all(find_spec(name) for name in ("onnx", "onnx_ir")):
        onnx.export = translated_once(onnx.export, session)  # type: ignore[attr-defined]


def _list_operators_once() -> None:
    """`torch.onnx` lists onnxscript's operators anew at each export, 0.7 s, and gets the same list."""
    for name, module in list(sys.modules.items()):
        listing = getattr(module, "get_torchlib_ops", None) if name.startswith("onnxscript._framework_apis.") else None
        if listing is not None and not hasattr(listing, "cache_info"):
            module.get_torchlib_ops = functools.cache(listing)  # type: ignore[attr-defined]


def translated_once(translate: Callable[..., Any], session: Path) -> Callable[..., Any]:
    """`torch.onnx.export`, which translates a module that it has seen before no more."""
    import onnx
    from onnx_ir import serde

    def export(module: torch.nn.Module, example: tuple[torch.Tensor, ...], **options: Any) -> Any:
        _list_operators_once()
        key = _key(module, example, options)
        if key is None:
            return translate(module, example, **options)
        made: list[Any] = []

        def make(folder: Path) -> None:
            made.append(translate(module, example, **options))
            folder.mkdir()
            onnx.save(serde.serialize_model(made[0].model), folder / "model.onnx")

        folder = made_once(session, f"translation-{key}", make)
        # What was translated here is passed on as it is: so tests of either kind run.
        return made[0] if made else SimpleNamespace(model=serde.deserialize_model(onnx.load(folder / "model.onnx")))

    export.translate = translate  # type: ignore[attr-defined]
    return export


def _key(module: torch.nn.Module, example: tuple[torch.Tensor, ...], options: dict[str, Any]) -> str | None:
    """Of what decides the translation; None for a large module, and for one whose parts cannot be written, such as hooks."""
    import torch

    if sum(tensor.nbytes for tensor in module.state_dict().values()) > _LARGEST:
        return None
    table = options.get("custom_translation_table") or {}
    plain = {name: value for name, value in options.items() if name != "custom_translation_table"}
    shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in example]
    # Classes are pickled by name: a test may have replaced what they do.
    forwards = [type(part).forward.__code__ for part in module.modules()]
    plain_types = (bool, int, float, str, tuple, type(None))  # inner code objects differ from process to process
    constants = [tuple(value for value in c.co_consts if isinstance(value, plain_types)) for c in forwards]
    code = sorted({repr((c.co_code, c.co_names, k)) for c, k in zip(forwards, constants, strict=True)})
    operators = sorted((str(op), _code(function)) for op, function in table.items())
    file = io.BytesIO()
    try:
        with torch.inference_mode():
            _Pickler(file).dump((module, code, shapes, repr(plain), operators))
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):
        return None
    return hashlib.sha256(file.getvalue()).hexdigest()[:32]


def _code(function: Any) -> str:
    """The code of an operator's translation, which a test may have replaced."""
    code = getattr(getattr(function, "function", function), "__code__", None)
    return repr((code.co_code, code.co_names)) if code is not None else str(function)


class _Pickler(pickle.Pickler):
    """Writes tensors as digests of their values: two that are equal may lie in storages that are not."""

    def persistent_id(self, obj: Any) -> Any:
        import torch

        if not isinstance(obj, torch.Tensor):
            return None
        # A copy: in inference mode a view of a parameter that was converted outside of it is an error.
        values = obj.detach().clone().contiguous().flatten().view(torch.uint8).numpy() if obj.numel() else b""
        return type(obj).__name__, str(obj.dtype), tuple(obj.shape), obj.stride(), hashlib.sha256(values).hexdigest()
