"""Versions of the packages that an export depends on, for the manifest."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "openclip-engines",
    "torch",
    "open_clip_torch",
    "timm",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "polygraphy",
    "pillow",
)


def package_versions() -> dict[str, str]:
    """Package name to version, of those that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
