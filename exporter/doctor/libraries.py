"""The libraries of exports and engines: whether each can be imported here, its version, and what it offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec

from engines.engine_kinds import KINDS
from engines.hub.client import unreadable_endpoint
from engines.process.optional import broken, import_or_reason, installed_version
from engines.runtimes.onnxruntime import onnxruntime_or_reason
from engines.runtimes.openvino import openvino_or_reason
from engines.tensorrt.library import PACKAGES, library_or_reason
from exporter.requirements import INSTALL, REQUIRED


@dataclass(frozen=True)
class Library:
    """A library to check.

    Attributes:
        name: its name in the report.
        module: the Python module.
        distributions: names under which pip may have installed it.
        install: the command that installs it.
        check: a stricter check than the import; it returns the module, or the reason why it cannot be used.
        describe: what the imported library offers, in a few words.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    install: str = INSTALL
    check: Callable[[], ModuleType | str] | None = None
    describe: Callable[[Any], str] = lambda module: ""

    @property
    def required(self) -> bool:
        """Whether every export needs it."""
        return self.module in REQUIRED


class LibraryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A library on this machine.

    Attributes:
        name: its name in the report.
        version: the installed version, broken or not; None: not installed.
        detail: what it offers, in a few words; empty without such a fact.
        problem: the reason why it cannot be used, with the remedy; None: it can be imported.
        required: whether every export needs it.
    """

    name: str
    version: str | None
    detail: str
    problem: str | None
    required: bool


def _cuda_of_torch(torch: Any) -> str:
    return "built without CUDA" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"


def _providers(onnxruntime: Any) -> str:
    return "providers: " + ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )


# In the order of the report: what every export needs, what open_clip needs, engines, and helpers.
LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (
        Library("torch", "torch", ("torch",), describe=_cuda_of_torch),
        Library("open_clip", "open_clip", ("open_clip_torch", "open-clip-torch")),
        Library("safetensors", "safetensors", ("safetensors",)),
        Library("onnx", "onnx", ("onnx",)),
        Library("onnxscript", "onnxscript", ("onnxscript",)),
        Library("onnx-ir", "onnx_ir", ("onnx-ir",)),
        Library("transformers", "transformers", ("transformers",)),
        Library("timm", "timm", ("timm",)),
        Library("huggingface_hub", "huggingface_hub", ("huggingface_hub",)),
        Library(
            "onnxruntime",
            "onnxruntime",
            ("onnxruntime", "onnxruntime-gpu"),
            KINDS["onnxruntime"].install_command,
            check=onnxruntime_or_reason,
            describe=_providers,
        ),
        Library("openvino", "openvino", ("openvino",), KINDS["openvino"].install_command, check=openvino_or_reason),
        *(
            Library(
                kind,
                KINDS[kind].library,
                PACKAGES[kind],
                KINDS[kind].install_command,
                check=lambda kind=kind: library_or_reason(kind),  # type: ignore[misc]
            )
            for kind in ("tensorrt", "tensorrt-rtx")
        ),
        Library("cuda-bindings", "cuda.bindings.driver", ("cuda-bindings",), KINDS["tensorrt"].install_command),
        Library("triton", "triton", ("triton",), "pip install triton"),
        Library("polygraphy", "polygraphy", ("polygraphy",)),
    )
}


# The libraries that import the hub's client, which cannot be imported where ``HF_ENDPOINT`` cannot be read.
_HUB_USERS = frozenset({"open_clip", "transformers", "timm", "huggingface_hub"})


def library_facts(name: str) -> LibraryFacts:
    """Import one library of `LIBRARIES` and describe it.

    An import that fails is a problem in the result. One that ends the process is for the caller: see `exporter.doctor.checks`.
    """
    library = LIBRARIES[name]
    module = (
        import_or_reason(library.module, library.name, library.install) if library.check is None else library.check()
    )
    version = known_version(library)
    if isinstance(module, str):
        endpoint = unreadable_endpoint() if name in _HUB_USERS and version is not None else None
        return facts_of_unusable(name, endpoint or module, version)
    try:
        detail = library.describe(module)
        version = version or str(getattr(module, "__version__", "unknown"))
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises
        return facts_of_unusable(name, broken(library.name, error, library.install), version)
    return LibraryFacts(name=name, version=version, detail=detail, problem=None, required=library.required)


def facts_of_unusable(name: str, problem: str, version: str | None) -> LibraryFacts:
    """The facts of a library that cannot be used."""
    return LibraryFacts(name=name, version=version, detail="", problem=problem, required=LIBRARIES[name].required)


def known_version(library: Library) -> str | None:
    """The version by pip's metadata, which needs no import; None without metadata."""
    return installed_version(*library.distributions)
