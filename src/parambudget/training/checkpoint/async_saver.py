"""Checkpoints written in the background: training waits for the copy to the CPU, never for the disk."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

from parambudget.errors import InputError
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.files import Snapshot
from parambudget.training.metrics import StepMetrics, list_checkpoints


class AsyncCheckpointSaver:
    """Writes one checkpoint at a time in a thread, and removes old ones after it.

    A save that fails is reported by the next `poll`, and the run continues: the next save may succeed.
    `finish` raises if the last one failed. Where several processes write together, the main process reports
    and raises for all of them.
    """

    def __init__(
        self, checkpoints: Path, keep: int, on_notice: Callable[[str], None], *, is_main: bool = True
    ) -> None:
        self.checkpoints, self.keep, self.on_notice, self.is_main = checkpoints, keep, on_notice, is_main
        self.sound_step = 0
        """The newest step whose weights are known to train on: an update that started from them was made."""
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def observe(self, step: StepMetrics) -> None:
        """Learn from an update that the weights before it are sound. An evaluation after it says too little:
        weights with a finite loss can have gradients that are not finite."""
        if not step.skipped:
            self.sound_step = step.step - 1

    def save(self, snapshot: Snapshot, then: Callable[[], None] = lambda: None) -> None:
        """Start writing a checkpoint once the previous one is done; `then` is called at the end."""
        self.wait()
        self.poll()
        # A daemon, so that a second Ctrl-C ends the process; the next start removes what it leaves behind.
        self._thread = Thread(target=self._write, args=(snapshot, then), name="parambudget-save", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()

    def poll(self) -> None:
        """Report a save that has failed since the last call."""
        error, self._error = self._error, None
        if error is not None:
            _reraise_bug(error)
            self.on_notice(f"{error}; training continues and the next save tries again")

    def finish(self) -> None:
        """Wait, and raise if the latest checkpoint could not be written."""
        self.wait()
        if self._error is not None:
            _reraise_bug(self._error)
        if self._error is not None and self.is_main:
            saved = list_checkpoints(self.checkpoints)
            newest = f"the newest checkpoint is {saved[0]}" if saved else "there is no checkpoint yet"
            raise InputError(f"{self._error}; {newest}; free some space and continue with `resume=True`")

    def _write(self, snapshot: Snapshot, then: Callable[[], None]) -> None:
        try:
            if not self.is_main:
                files.write_shards(self.checkpoints, snapshot)
                return
            files.write_checkpoint(self.checkpoints, snapshot)
            files.remove_old(self.checkpoints, self.keep, self.sound_step)
            then()
        except Exception as error:
            self._error = error


def _reraise_bug(error: Exception) -> None:
    if not isinstance(error, InputError | OSError):
        raise error
