"""Signals that ask a run to stop: it saves at the next step boundary and ends well."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

_ASKING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)


class Stopped(BaseException):
    """Asked to stop while there is nothing to save. As KeyboardInterrupt, no handler of errors catches it."""


class StopRequest:
    """Whether somebody has asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.at_once = False
        """There is no step boundary to wait for: a signal raises."""

    def stop_at_once(self) -> None:
        """From now on, and now if a signal has come already.

        Not to be called before torch is imported: what is raised in the middle of that is lost, or ends in
        another error.
        """
        self.at_once = True
        if self.signal_name is not None:
            self._raise()

    def __call__(self) -> bool:
        """Whether to stop at this step boundary."""
        return self.signal_name is not None

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_name == "SIGINT":
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        if self.at_once:
            self._raise()

    def _raise(self) -> NoReturn:
        raise KeyboardInterrupt if self.signal_name == "SIGINT" else Stopped(self.signal_name)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM, SIGUSR1 and a first SIGINT set the request; a second SIGINT interrupts at once.

    Outside of the main thread, where Python cannot handle signals, nothing is asked.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._ask) for number in _ASKING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
