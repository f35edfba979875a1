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
    """The versions of the installed packages, by package name."""
    versions = {package: installed_version(package) for package in _PACKAGES}
    return {package: version for package, version in versions.items() if version is not None}
