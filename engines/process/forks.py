"""Values that a forked child process must make anew, such as pools of threads and opened engines.

A forked child has only the thread that called ``fork``. Threads of a pool are missing there, locks that other threads held stay
locked, and the destructor of an engine waits for threads that do not exist. So the child makes its own value when it first needs
one, and never destroys the parent's.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class PerProcess(Generic[_T]):
    """A value for each process; many threads may call `get`.

    Args:
        make: function that makes the value, in this process now and in a forked child at the first `get`.
        make_in_child: function that makes the child's value, where that differs; it may raise an error with the reason why there
            can be none.
    """

    def __init__(self, make: Callable[[], _T], make_in_child: Callable[[], _T] | None = None) -> None:
        self._make = make_in_child or make
        self._lock = threading.Lock()
        self._held: tuple[int, _T] | None = (os.getpid(), make())
        with _CHANGING:
            _ALL.add(self)

    def get(self) -> _T:
        """The value of this process."""
        held = self._held
        if held is not None and held[0] == os.getpid():
            return held[1]
        with self._lock:
            if self._held is None or self._held[0] != os.getpid():
                self._held = (os.getpid(), self._make())
            return self._held[1]

    def made_here(self) -> _T | None:
        """The value, if this process has made one; None in a child that has not called `get`."""
        held = self._held
        return held[1] if held is not None and held[0] == os.getpid() else None

    def _forget(self) -> None:
        """Drop the parent's value but never destroy it, because its destructor would wait for threads that are missing here."""
        held, self._held = self._held, None
        self._lock = threading.Lock()
        if held is not None:
            never_destroy(held[1])


class ForkSafeLock:
    """A lock that is free in a forked child, even if a thread held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        with _CHANGING:
            _LOCKS.append(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.RLock()


def in_forked_child() -> bool:
    """Whether this process was forked from one that had imported this module."""
    return os.getpid() != _FIRST


def skip_exit_handlers_in_children() -> None:
    """Let children that are forked from now on end without the handlers that libraries have registered with C's ``exit``.

    ONNX Runtime's handlers would wait there for ever for threads that only the parent has (seen with 1.32). Python's own ``atexit``
    functions run, open C streams are flushed, and the exit status stays; processes of `multiprocessing` skip those handlers anyhow.
    The function does nothing where the C library has no ``on_exit``; glibc has it.
    """
    global _C_LIBRARY
    library = ctypes.CDLL(None)
    if all(hasattr(library, name) for name in ("on_exit", "fcloseall")):
        _C_LIBRARY = library


def never_destroy(value: Any) -> None:
    """Keep an object to the end of the process, even beyond the interpreter's own cleanup at exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _in_child() -> None:
    global _CHANGING
    _CHANGING = threading.Lock()
    for lock in _LOCKS:
        lock._renew()
    for value in list(_ALL):
        value._forget()
    if _C_LIBRARY is not None:
        _end_without_exit_handlers(_C_LIBRARY)


def _end_without_exit_handlers(library: ctypes.CDLL) -> None:
    # C calls the handler that was registered last first. It passes the status and a pointer to both; `fcloseall` ignores them.
    library.on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)
    library.on_exit(ctypes.cast(library.fcloseall, ctypes.c_void_p), None)


_FIRST = os.getpid()
_C_LIBRARY: ctypes.CDLL | None = None  # the C library whose exit handlers children skip; None: they skip none
_CHANGING = threading.Lock()  # guards the collections below
_ALL: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()
_LOCKS: list[ForkSafeLock] = []
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)
