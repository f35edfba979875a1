"""PyTorch as a library that AOTInductor's packages call: checks of whether it is installed, of its version, and of its parts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from engines.process.optional import broken, import_or_reason, installed_version

_NAME = "PyTorch"


def torch_or_reason(built: str) -> ModuleType | str:
    """PyTorch; or the reason why there is no working one here, as one sentence with the remedy.

    Args:
        built: the version with which a package was built, such as ``2.15.0+cu130``.
    """
    library = import_or_reason("torch", _NAME, _install(built))
    if isinstance(library, str):
        return library
    try:
        library._C._aoti.AOTIModelPackageLoader, library.__version__  # noqa: B018
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises
        return broken(_NAME, error, _install(built))
    return library


def version_problem(built: str, on_gpu: bool) -> str | None:
    """The reason why a package cannot run with the installed PyTorch; None if it can.

    Packages call PyTorch's C interface, which later versions intend to keep but do not promise, and which grows with every version.

    Args:
        built: see `torch_or_reason`.
        on_gpu: whether the package is for a GPU.
    """
    installed = installed_version("torch")
    if installed is not None and _family(installed) != _family(built):
        return _mismatch(built, installed)
    # The import comes last, because it takes two seconds.
    torch: Any = torch_or_reason(built)
    if isinstance(torch, str):
        return torch
    here = str(torch.__version__)  # a PyTorch that was not installed by pip may have no metadata
    if _family(here) != _family(built):
        return _mismatch(built, here)
    if on_gpu and not torch.cuda.is_available():
        return f"the installed PyTorch {here} does not reach the GPU: install its CUDA build"
    return None


def _mismatch(built: str, installed: str) -> str:
    return (
        f"built with torch {built}, {installed} is installed, and a package runs with the major and minor version that built "
        f"it: {_install(built)}, or export the model again"
    )


def _install(built: str) -> str:
    return f"pip install 'torch=={_family(built)}.*'"


def _family(version: str) -> str:
    """Major and minor version, which must be equal: ``2.15`` of ``2.15.0+cu130``."""
    return ".".join(version.split("+")[0].split(".")[:2])
