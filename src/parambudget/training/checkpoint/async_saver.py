"""Checkpoints written in the background: training waits for the copy to the CPU, never for the disk."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

from parambudget.errors import InputError
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.files import Snapshot


class Saver:
    """Writes one checkpoint at a time in a thread, and removes the old ones after it.

    A save that fails is told by the next `poll`, and the run goes on: the next save may succeed. `finish`
    raises if the last one failed. Where several processes write together, the leading one tells and raises
    for all of them.
    """

    def __init__(
        self, checkpoints: Path, keep: int, on_notice: Callable[[str], None], *, leads: bool = True
    ) -> None:
        self.checkpoints, self.keep, self.on_notice, self.leads = checkpoints, keep, on_notice, leads
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, held: Snapshot, then: Callable[[], None] = lambda: None) -> None:
        """Begin to write a checkpoint, after the one before it is done; `then` is called last."""
        self.wait()
        self.poll()
        # A daemon, so that a second Ctrl-C ends the process; what it leaves is removed when the run goes on.
        self._thread = Thread(target=self._write, args=(held, then), name="parambudget-save", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()

    def poll(self) -> None:
        """Tell of a save that has failed since the last call."""
        error, self._error = self._error, None
        if error is not None:
            _raise_unless_foreseen(error)
            self.on_notice(f"{error}; training goes on and the next save tries again")

    def finish(self) -> None:
        """Wait, and raise if the latest checkpoint could not be written."""
        self.wait()
        if self._error is not None:
            _raise_unless_foreseen(self._error)
        if self._error is not None and self.leads:
            there = files.all_in(self.checkpoints)
            before = f"the newest checkpoint is {there[0]}" if there else "there is no checkpoint yet"
            raise InputError(f"{self._error}; {before}; free some space and go on with --resume")

    def _write(self, held: Snapshot, then: Callable[[], None]) -> None:
        try:
            if not self.leads:
                files.write_pieces(self.checkpoints, held)
                return
            files.write(self.checkpoints, held)
            files.remove_old(self.checkpoints, self.keep)
            then()
        except Exception as error:
            self._error = error


def _raise_unless_foreseen(error: Exception) -> None:
    if not isinstance(error, InputError | OSError):
        raise error
