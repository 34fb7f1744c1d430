"""A queue between two threads that neither side can be left waiting on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Channel"]

T = TypeVar("T")


class Channel(Generic[T]):
    """Hands items from one thread to another and bounds the size of what waits.

    `queue.Queue` counts items, and a put or get that waits in it cannot be told that the other side has ended (it can
    from Python 3.13).
    """

    def __init__(self, most: int, size_of: Callable[[T], int]) -> None:
        """Take the bound.

        Args:
            most: Size that may wait; a single item is let in however large it is.
            size_of: Size of an item, in any unit.
        """
        self._most = most
        self._size_of = size_of
        self._items: deque[tuple[T, int]] = deque()
        self._waiting = 0
        self._finished = False
        self._abandoned = False
        self._changed = threading.Condition()

    @property
    def is_over(self) -> bool:
        """Whether nothing will come out any more."""
        with self._changed:
            return self._abandoned or (self._finished and not self._items)

    def put(self, item: T) -> bool:
        """Wait for room and hand the item over; False where nobody takes any more."""
        size = self._size_of(item)
        with self._changed:
            self._changed.wait_for(
                lambda: self._abandoned or not self._items or self._waiting + size <= self._most,
            )
            if self._abandoned:
                return False
            self._items.append((item, size))
            self._waiting += size
            self._changed.notify_all()
            return True

    def take(self, timeout: float | None = None) -> T | None:
        """The next item; None where none came within so many seconds, or `is_over`."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._abandoned, timeout)
            if self._abandoned or not self._items:
                return None
            item, size = self._items.popleft()
            self._waiting -= size
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """Say that no further item comes; what waits is still taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Let go of what waits, and of whoever waits to put something in."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()
