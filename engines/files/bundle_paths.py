"""Resolution of the paths in a bundle's manifest."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from engines.errors import BundleError

# Limits of the usual file systems: bytes of one name, and of a path inside the bundle.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024


def resolve_path(bundle: str | os.PathLike[str], relative: str) -> Path:
    """The file path of a manifest's path; the file system is not read, so the path may be a link to anywhere (`leads_out`).

    Raises:
        BundleError: the path is absolute, has backslashes, control characters, a drive or ``..``, or is too long for file systems.
    """
    folder = Path(bundle)
    if not _is_plain(relative):
        shown = repr(relative if len(relative) <= 100 else f"{relative[:100]}…")
        raise BundleError(f"path {shown} in the manifest of {folder} does not name a file inside the bundle")
    return folder.joinpath(*PurePosixPath(relative).parts)


def leads_out(bundle: str | os.PathLike[str], path: Path) -> bool:
    """Whether a path of the bundle is, or lies behind, a link to a file outside the bundle's folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(bundle))


def _is_plain(relative: str) -> bool:
    try:
        sizes = [len(part.encode("utf-8")) for part in PurePosixPath(relative).parts]
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    within = bool(sizes) and max(sizes) <= MAX_NAME_BYTES and sum(sizes) + len(sizes) <= MAX_PATH_BYTES
    plain = not relative.startswith("/") and not set(relative) & set("\\:") and relative not in (".", "./")
    return within and plain and ".." not in PurePosixPath(relative).parts and min(relative) >= " "
