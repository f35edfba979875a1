"""Versions of the packages that an export depends on, for the manifest."""

from __future__ import annotations

from engines.process.optional import installed_version

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
    "tokenizers",
    "ftfy",
)


def package_versions() -> dict[str, str]:
    """Package name to version, of those that are installed."""
    found = {package: installed_version(package) for package in _PACKAGES}
    return {package: version for package, version in found.items() if version is not None}
