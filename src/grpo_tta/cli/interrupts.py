"""Signals that end a command in order: what is answered is written, and the exit status names the signal."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, final


@final
class Stopped(BaseException):
    """Raised in the main thread by a signal. No `Exception`, so that it is never taken for the fault of an image."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def status(self) -> int:
        """As shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.signum


@final
class Interrupts:
    """Inside, SIGINT, SIGTERM and SIGHUP raise `Stopped`. One that was ignored before (`nohup`, `&`) stays ignored."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._signum: int | None = None
        self._held = self._raised = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                signum = getattr(signal, name, None)  # Windows has no SIGHUP
                if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def hold(self) -> None:
        """From here to `release` a signal waits. A second one does not."""
        self._held = True

    def release(self) -> None:
        """
        Raises:
            Stopped: a signal came meanwhile.
        """
        self._held = False
        if self._signum is not None:
            self._raised = True
            raise Stopped(self._signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        first, self._signum = self._signum is None, self._signum or signum
        if self._raised or (self._held and first):
            return
        self._raised = True  # what follows is the orderly end, which nothing more may cut short
        raise Stopped(self._signum)
