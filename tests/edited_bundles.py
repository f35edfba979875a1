"""Bundles that were edited or laid out in another way, as files on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def edit_manifest(bundle: Path, change: Callable[[Any], object]) -> None:
    """Rewrite the manifest after `change` has changed its JSON in place; a link is replaced by a file."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.unlink()
    path.write_text(json.dumps(data), encoding="utf-8")


def relist(bundle: Path, names: Iterable[str]) -> None:
    """Give files the manifest's entry that an exporter would have given them."""

    def change(data: Any) -> None:
        for name in names:
            content = (bundle / name).read_bytes()
            data["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    edit_manifest(bundle, change)


def hub_snapshot(bundle: Path, cache: Path) -> Path:
    """A bundle as the Hugging Face cache has it: a snapshot's folder of links to files that are named by their checksum."""
    blobs, snapshot = cache / "models--org--name" / "blobs", cache / "models--org--name" / "snapshots" / "0123abcd"
    blobs.mkdir(parents=True)
    for path in bundle.rglob("*"):
        if path.is_file():
            blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copyfile(path, blob)
            link = snapshot / path.relative_to(bundle)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot
