"""A pool of one engine's slots, which threads share: as many as may run at a time, made when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from engines.device.cuda import OutOfDeviceMemoryError
from engines.errors import EngineError
from engines.tensorrt.slot import Slot


class SlotPool:
    """The idle and busy slots of one engine.

    Args:
        make: function that makes a new slot.
        most: largest number of slots.
    """

    def __init__(self, make: Callable[[], Slot], most: int) -> None:
        self._make = make
        self._most = most
        self._count = 0
        self._idle: list[Slot] = []
        self._closed = False
        self._changed = threading.Condition()

    def acquire(self) -> Slot:
        """An idle slot or a new one; waits for an idle slot where the largest number exists.

        Raises:
            EngineError: the pool was closed.
            OutOfDeviceMemoryError: there is no device memory for a first slot.
        """
        with self._changed:
            while True:
                slot = self._take()
                if slot is not None:
                    return slot
                self._changed.wait()

    def acquire_now(self) -> Slot | None:
        """A slot like that of `acquire`, but None where `acquire` would wait."""
        with self._changed:
            return self._take()

    def release(self, slot: Slot) -> None:
        """Return a slot to the pool."""
        with self._changed:
            self._idle.append(slot)
            self._changed.notify()

    def close(self) -> None:
        """Refuse new work, wait until every slot is idle, and free them; later calls do nothing. The device must be current."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            while len(self._idle) < self._count:
                self._changed.wait()
            for slot in self._idle:
                slot.close()
            self._idle.clear()
            self._count = 0

    def _take(self) -> Slot | None:
        if self._closed:
            raise EngineError("the engine was closed: load the bundle again")
        if self._idle:
            return self._idle.pop()
        if self._count >= self._most:
            return None
        try:
            slot = self._make()
        except OutOfDeviceMemoryError:
            if not self._count:
                raise
            self._most = self._count  # there is no memory for another slot, so the existing ones must suffice
            return None
        self._count += 1
        return slot
