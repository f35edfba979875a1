"""A lock that admits concurrent runs, or one run alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """A lock that any number of threads hold together, or one thread alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone: int | None = None  # the thread that is alone inside, or waits for that

    @contextmanager
    def together(self) -> Iterator[None]:
        """Enter unless another thread is alone; the thread that is alone may enter, too."""
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
        """Enter with no other thread inside; later threads wait. It must not be entered from inside `together`."""
        this_thread = threading.get_ident()
        try:
            with self._changed:
                while self._alone is not None:
                    self._changed.wait()
                self._alone = this_thread
                while self._inside:
                    self._changed.wait()
            yield
        finally:  # after an interrupt of the second wait, too, because the other threads would wait for ever
            with self._changed:
                if self._alone == this_thread:  # not after an interrupt of the first wait: another thread is alone
                    self._alone = None
                    self._changed.notify_all()
