"""Runs side by side, and now and then one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets any number of threads in, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone: int | None = None  # the thread that is, or waits to be

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, no other thread is alone. The thread that is alone may enter, too."""
        with self._changed:
            while self._alone not in (None, threading.get_ident()):
                self._changed.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other thread is in; those that come wait. Not to be entered from inside `together`."""
        own = threading.get_ident()
        try:
            with self._changed:
                while self._alone is not None:
                    self._changed.wait()
                self._alone = own
                while self._inside:
                    self._changed.wait()
            yield
        finally:  # after an interrupt of the second wait, too: the others would wait for ever
            with self._changed:
                if self._alone == own:  # not after an interrupt of the first wait: another thread is alone
                    self._alone = None
                    self._changed.notify_all()
