"""Where the paths of a bundle's manifest lead."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from engines.errors import BundleError


def resolve_path(bundle: str | os.PathLike[str], relative: str) -> Path:
    """The file that a manifest's path names.

    Raises:
        BundleError: absolute, with backslashes, a drive or ``..``, or a link that leads out of the bundle.
    """
    folder = Path(bundle)
    parts = PurePosixPath(relative).parts
    plain = bool(parts) and not relative.startswith("/") and not set(relative) & set("\\:\0") and ".." not in parts
    if not plain or relative in (".", "./"):
        raise BundleError(f"path {relative!r} in the manifest of {folder} does not name a file inside the bundle")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"path {relative!r} in the manifest of {folder} leads out of the bundle")
    return path
