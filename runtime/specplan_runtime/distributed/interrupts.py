"""``Interrupts``: Ctrl-C on the deciding rank waits until all ranks have done what they were told."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Between two commands an interrupt is raised at once; while the ranks compute together, after that."""

    def __init__(self) -> None:
        self._depth, self._waiting = 0, False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Take Ctrl-C from Python's own handler; for the main thread."""
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Something that all ranks do together.

        Raises:
            KeyboardInterrupt: at the end, when it came meanwhile.
        """
        self.hold()
        try:
            yield
        except BaseException:
            self._depth -= 1
            raise
        self.release()

    def hold(self) -> None:
        """Begin something that all ranks do together."""
        self._depth += 1

    def release(self) -> None:
        """End it.

        Raises:
            KeyboardInterrupt: when it came meanwhile.
        """
        self._depth -= 1
        if self._waiting and not self._depth:
            self._waiting = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._depth:
            raise KeyboardInterrupt
        self._waiting = True
