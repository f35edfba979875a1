"""The reading of a checkpoint file's tensors, whatever surrounds them, without running code from the file."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.weights.checkpoint_files import SUFFIXES, conversion_of, readable

_ZIP = b"PK\x03\x04"
_OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_DEEPEST = 8  # the largest depth of nested mappings; training checkpoints have two or three

# Classes of settings and figures that training scripts save beside the weights. None of them is ever called: `_Ignored` replaces
# them, because numpy's scalars of dtype object, for instance, are pickles of their own, which older versions load.
_HARMLESS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows", "")),
    *(f"{module}.Pure{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows", "")),
    *(f"{module}.multiarray.{name}" for module in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "torch.torch_version.TorchVersion",
)


class Place(NamedTuple):
    """The place of a tensor in a checkpoint; both fields together are its full name, as in ``state_dict.module.logit_scale``."""

    container: str  # the keys of the mappings around it, each followed by a dot; empty at the top
    name: str

    @property
    def full(self) -> str:
        """Container and name as one dotted name."""
        return self.container + self.name


class _Ignored:
    """A placeholder for an object of a checkpoint that is not a tensor; it ignores the object's state in the file."""

    def __new__(cls, *_: object) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_checkpoint(path: Path, trust: bool = False) -> dict[Place, torch.Tensor]:
    """Read all named tensors of a checkpoint, on the CPU; they are memory-mapped where the format allows it.

    Mappings under text keys are searched to a depth of 8, and so are whole modules where `trust` allows loading them. Other objects
    are skipped: numbers, settings, paths, numpy's scalars.

    Args:
        path: a file with one of `exporter.weights.checkpoint_files.SUFFIXES`.
        trust: whether to load classes and programs that the file names, too, which **runs code that the file chooses**.

    Raises:
        ExportError: the file is missing, not readable, empty, truncated, of an unknown format, or a pickle that would run code.
    """
    with readable(path):
        if path.is_dir():
            raise ExportError(
                f"{path} is a folder, not a checkpoint; for a folder in open_clip's format pass local-dir:{path} as MODEL"
            )
        if not path.is_file():
            raise ExportError(f"no such checkpoint: {path}")
        if path.suffix not in SUFFIXES:
            raise ExportError(f"{path} does not end in {', '.join(SUFFIXES)}: not a checkpoint that can be read here")
        with path.open("rb") as file:
            head = file.read(64)
    if not head:
        raise ExportError(f"{path} is empty (0 bytes): download or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise ExportError(f"{path} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, head, trust)
    tensors = _tensors(content)
    if not tensors:
        raise ExportError(f"{path} holds no model weights (expected a mapping of parameter names to tensors)")
    return tensors


def not_plain(tensor: torch.Tensor) -> str | None:
    """Return the reason why a tensor's values cannot be taken as they are, such as "quantized"; None if they can."""
    if tensor.is_quantized:
        return f"quantized ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "sparse" if not tensor.is_nested else "nested"
    return "without values (it was saved from the meta device)" if tensor.is_meta else None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path, head: bytes, trust: bool) -> Any:
    zipped = head.startswith(_ZIP)
    refusal: Exception
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Ignored, name) for name in _HARMLESS]):
            warnings.simplefilter(
                "ignore"
            )  # torch warns about TorchScript archives and pickle protocols, as do the errors below
            # Only the zip format can be mapped; older pickles are read whole.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        match = re.search(r"(?:GLOBAL|Unsupported class)\s+(\S+)", str(error))
        if match is None and not zipped:
            raise _damaged(path, ValueError("not a pickle of weights")) from error
        # An archive that can be opened is not truncated, because the directory of a zip archive is at its end.
        what = f"it holds {match[1].strip('`.,')}" if match else "its pickle has more than torch reads safely"
        refusal, is_program = error, False
    except Exception as error:  # torch's unpickler can raise any error on damaged bytes
        if "TorchScript" not in str(error):
            raise _damaged(path, error) from error
        what = "it is a TorchScript program, as OpenAI's original files are"
        refusal, is_program = error, True
    if not trust:
        conversion = conversion_of(path, "--trust")
        raise ExportError(
            f"{path} cannot be read as plain weights: {what}, and loading that would run code from the file; if you trust "
            f"it, `{conversion.line}` runs that code once and writes the weights as a file that can be read: then "
            f"{conversion.then}, or pass a tag"
        ) from refusal
    return _run_code_of(path, is_program, zipped)


def _run_code_of(path: Path, is_program: bool, zipped: bool) -> Any:
    """Load `path` in the way that runs code which the file names."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_program:
                return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return torch.load(path, map_location="cpu", weights_only=False, mmap=zipped)
    except (ImportError, AttributeError) as error:
        raise ExportError(
            f"{path} wants code that cannot be imported here ({_detail(error)}); install it, or add its folder to PYTHONPATH"
        ) from error
    except Exception as error:  # as above, and any error of the file's code
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ExportError:
    """Make the error for a file that could be opened and not read, which is damaged except in a few cases."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return ExportError(
            f"{path} cannot be opened, because its path is not UTF-8 and torch and safetensors need one that is: rename the file "
            "or its folder"
        )
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _OF_THE_MACHINE:
        return ExportError(f"{path} cannot be read ({_detail(error)})")
    return ExportError(
        f"{path} is truncated or not a checkpoint ({_detail(error)}); delete it and download or save it again"
    )


def _detail(error: Exception) -> str:
    return (" ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__)[:120]


def _tensors(content: Any) -> dict[Place, torch.Tensor]:
    """Collect the tensors of nested mappings, the outer ones first; a mapping that occurs twice counts once."""
    by_place: dict[Place, torch.Tensor] = {}
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    while waiting:
        keys, node = waiting.popleft()
        if id(node) in seen or len(keys) > _DEEPEST:
            continue
        mapping = node.state_dict() if isinstance(node, nn.Module) else node
        if not isinstance(mapping, Mapping):
            continue
        seen.add(id(node))
        container = "".join(f"{key}." for key in keys)
        for key, value in mapping.items():
            if isinstance(key, str) and isinstance(value, torch.Tensor):
                by_place[Place(container, key)] = value
            elif isinstance(key, str):
                waiting.append(((*keys, key), value))
    return by_place
