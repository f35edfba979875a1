"""The kind of file at a path that a user gave.

``Path.is_file()`` and similar methods do not suffice, because they raise OSError on Python 3.10 and 3.11 where the system refuses
access.
"""

from __future__ import annotations

import os

from engines.errors import EngineError


def mode_of(path: str | os.PathLike[str], what: str, error: type[EngineError]) -> int | None:
    """The mode (``st_mode``) of the file at a path, with links followed; None where there is no file.

    Args:
        path: path of a file or a folder.
        what: the path in a message, such as ``the folder of --out x.npy``.
        error: class of the error.

    Raises:
        EngineError: (an instance of `error`) the system refuses access, because the path is too long, or lies below a folder that
            this user may not enter, or its links form a circle.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as problem:  # ValueError: a zero byte, or half of a surrogate pair
        raise error(f"{what} cannot be reached ({getattr(problem, 'strerror', None) or problem})") from problem
