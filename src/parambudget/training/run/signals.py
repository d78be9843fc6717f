"""Signals that ask a run to stop: it saves after the current update and exits normally."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

_STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)


class StopSignal(BaseException):
    """A stop was requested while there is nothing to save. Like KeyboardInterrupt, no `except Exception`
    catches it."""


class StopRequest:
    """Whether the run has been asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.raises = False
        """There is no update to finish: a signal raises at once."""

    def raise_immediately(self) -> None:
        """Raise at the next signal, and now if one has come already.

        Not to be called before torch is imported: an exception in the middle of that import is lost, or turns
        into another error.
        """
        self.raises = True
        if self.signal_name is not None:
            self._raise()

    def wait_for_update(self) -> None:
        """From now on a signal only sets the request, for the run to see after its current update."""
        self.raises = False

    def __call__(self) -> bool:
        """Whether to stop after this update."""
        return self.signal_name is not None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_name == "SIGINT":
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        if self.raises:
            self._raise()

    def _raise(self) -> NoReturn:
        raise KeyboardInterrupt if self.signal_name == "SIGINT" else StopSignal(self.signal_name)


@contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """SIGTERM, SIGUSR1, SIGHUP and a first SIGINT set the request; a second SIGINT interrupts at once.

    Where the process was started to ignore SIGHUP (`nohup`), that stays ignored. Outside the main thread,
    where Python cannot handle signals, no request is ever set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.signal(number, request._handle) for number in _STOP_SIGNALS if _is_wanted(number)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_by_the_system() -> Iterator[None]:
    """Let a signal end the process at once, by the system's default action, where Python would not see it.

    For a call that waits in C++: Python handles a signal only once such a call returns. Handlers that are
    neither ours nor Python's own stay.
    """
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    changed = {number: handler for number, handler in before.items() if _waits_for_python(handler)}
    if threading.current_thread() is not threading.main_thread():
        changed = {}
    for number in changed:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


def _waits_for_python(handler: object) -> bool:
    """Whether the handler is ours, or that which raises KeyboardInterrupt."""
    return handler is signal.default_int_handler or isinstance(
        getattr(handler, "__self__", None), StopRequest
    )


def _is_wanted(number: int) -> bool:
    """Whether the signal is one to react to here."""
    return signal.Signals(number).name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
