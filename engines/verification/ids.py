"""The check of token ids: the bundle's hard captions, in which tokenizers differ, and their ids from the exporting machine."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engines.errors import BundleError
from engines.files.bundle_paths import resolve_path
from engines.files.npz_files import opened_npz
from engines.inputs.tokenizer import TextTokenizer
from engines.manifest import Manifest, read_manifest

TEXTS, IDS = "caption_texts", "caption_ids"
_LIBRARIES = ("tokenizers", "ftfy")  # libraries on which ids depend besides the bundle's own files
_NAMED = 3  # largest number of captions in messages


class IdParity(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of this machine's ids of a bundle's captions with the exporting machine's."""

    captions: int  # number of compared captions; 0: the bundle has none
    failures: tuple[str, ...]  # a sentence for each of the first captions that have other ids
    passed: bool


def verify_ids(bundle: str | os.PathLike[str]) -> IdParity:
    """Tokenize the captions in a bundle's reference file, and compare; ids have to be equal.

    Args:
        bundle: the bundle's folder. Checksums are not compared here; `engines.verification.embeddings.verify_bundle` does that.

    Returns:
        The figures; `passed` is also True for a bundle without captions, which an earlier release wrote, or without a text tower.

    Raises:
        BundleError: the manifest, the reference file or the tokenizer's file is missing or damaged.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    if manifest.tokenizer is None:
        return IdParity(captions=0, failures=(), passed=True)
    texts, expected = _read_captions(folder, manifest)
    if not texts:
        return IdParity(captions=0, failures=(), passed=True)
    ids = TextTokenizer(resolve_path(folder, manifest.tokenizer.file), manifest.tokenizer)(texts)
    wrong = [index for index in range(len(texts)) if not np.array_equal(ids[index], expected[index])]
    return IdParity(
        captions=len(texts),
        failures=tuple(
            f"caption {_shown(texts[index])}: {_difference(ids[index], expected[index])}; {_versions(manifest)}: "
            "install those, or export the bundle again with these"
            for index in wrong[:_NAMED]
        ),
        passed=not wrong,
    )


def _read_captions(folder: Path, manifest: Manifest) -> tuple[list[str], npt.NDArray[Any]]:
    """The reference file's captions, and their ids (K, L) int32."""
    path = resolve_path(folder, manifest.reference)
    with opened_npz(path, BundleError, "is missing or damaged", "copy or export the bundle again") as arrays:
        if TEXTS not in arrays.files:
            return [], np.empty((0, 0), np.int32)
        texts = json.loads(arrays[TEXTS].astype(np.uint8, casting="safe").tobytes())
        ids = arrays[IDS]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{TEXTS} is no list of captions")
        if ids.dtype != np.int32 or ids.ndim != 2 or len(ids) != len(texts):
            raise ValueError(f"{IDS} is {ids.dtype} {ids.shape} for {len(texts)} captions")
        return texts, ids


def _difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str:
    if found.shape != expected.shape:
        return f"{len(found)} ids instead of {len(expected)}"
    position = int(np.argmax(found != expected))
    return f"id {found[position]} instead of {expected[position]} at position {position}"


def _versions(manifest: Manifest) -> str:
    made_with = " and ".join(
        f"{name} {manifest.created_with.get(name, 'of an unknown version')}" for name in _LIBRARIES
    )
    here = " and ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"it was exported with {made_with}, and here are {here}"


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}… ({len(text)} characters)"
