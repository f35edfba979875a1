"""What lies at a path that a user named.

Where the system refuses to look, ``Path.is_file()`` and its like raise OSError on Python 3.10 and 3.11.
"""

from __future__ import annotations

import os

from engines.errors import EngineError


def mode_of(path: str | os.PathLike[str], what: str, error: type[EngineError]) -> int | None:
    """The mode (``st_mode``) of what is there, behind links; None where nothing is.

    Args:
        path: of a file or a folder.
        what: the path in a message, such as ``the folder of --out x.npy``.
        error: class of the error.

    Raises:
        EngineError: of class `error`: the system does not say, because the path is too long, or lies below a folder that this user
            may not enter, or its links go in a circle.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as problem:  # ValueError: a zero byte, or half of a surrogate pair
        raise error(f"{what} cannot be reached ({getattr(problem, 'strerror', None) or problem})") from problem
