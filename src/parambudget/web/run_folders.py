"""The runs in the folders that the page may read, found again and read again as they grow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final

from parambudget.errors import InputError
from parambudget.training.metrics import METRICS, Run, read_run

_DEPTH: Final = 2
"""Folders below a given one in which runs are looked for."""
MOST_RUNS: Final = 200
"""Runs that are read; the newest, where there are more."""
_READ_FILES: Final = ("config.json", METRICS, "summary.json")


@dataclass(frozen=True)
class RunEntry:
    """A folder of a run as it was last read."""

    name: str
    """Its path within the given folder, after that folder's own name: the address of the page names it so."""
    run: Run | None
    """None where it could not be read."""
    problem: str | None
    """Why not, in one line."""


class RunFolders:
    """Reads runs below these folders and nothing else; what did not change is not read again."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.left_out = 0
        """Runs that were found and not read: the oldest ones, where there are too many."""
        self.read_seconds = 0.0
        """What the last reading took."""
        self._entries: dict[Path, tuple[tuple[float, ...], RunEntry]] = {}
        self._lock = Lock()  # several browsers share the runs

    def read(self) -> list[RunEntry]:
        """The runs as they are now, the newest first."""
        with self._lock:
            begun = monotonic()
            found = self._find()
            states = {path: _state_of(path) for path in found}
            newest = sorted(states, key=lambda path: -_last_change(states[path]))[:MOST_RUNS]
            self.left_out = len(found) - len(newest)
            for path in newest:
                name, state = found[path], states[path]
                if path not in self._entries or self._entries[path][0] != state:
                    self._entries[path] = state, _read(path, name)
            self._entries = {path: self._entries[path] for path in newest}
            self.read_seconds = monotonic() - begun
            return [entry for _, entry in self._entries.values()]

    def _find(self) -> dict[Path, str]:
        """The folders of runs with their names, each name once."""
        found: dict[Path, str] = {}
        for folder in self.folders:
            for path, name in _runs_below(folder):
                if path not in found:
                    n = sum(taken == name or taken.startswith(f"{name} (") for taken in found.values())
                    found[path] = f"{name} ({n + 1})" if n else name
        return found


def _runs_below(folder: Path) -> list[tuple[Path, str]]:
    """The folders of runs in a given folder, itself included, and their names; links are not followed."""
    root, found, level = folder.resolve(), [], [folder.resolve()]
    for depth in range(_DEPTH + 1):
        following = []
        for path in level:
            if (path / METRICS).is_file():
                found.append((path, "/".join((root.name, *path.relative_to(root).parts))))
            elif depth < _DEPTH:
                following += _subfolders(path)
        level = following
    return found


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []  # it was just removed, or may not be listed


def _state_of(path: Path) -> tuple[float, ...]:
    """When the files of a run last changed, and their sizes."""
    state: list[float] = []
    for name in _READ_FILES:
        try:
            stat = (path / name).stat()
            state += [stat.st_mtime, float(stat.st_size)]
        except OSError:
            state += [0.0, 0.0]
    return tuple(state)


def _last_change(state: tuple[float, ...]) -> float:
    return max(state[::2])


def _read(path: Path, name: str) -> RunEntry:
    try:
        return RunEntry(name, read_run(path), None)
    except InputError as error:
        return RunEntry(name, None, str(error))
