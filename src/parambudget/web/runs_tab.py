"""The Runs tab: training runs of the given folders, during training and after it."""

from collections.abc import Sequence
from time import monotonic
from typing import Final

from nicegui import run, ui

from parambudget.render.runs import run_rows
from parambudget.units import count_phrase
from parambudget.web import charts
from parambudget.web.controls import Chart, error_line, section, show_error
from parambudget.web.markup import html_table, sentences
from parambudget.web.run_folders import RunEntry, RunFolders
from parambudget.web.session import Session

_MOST_SHOWN: Final = 6
"""Runs in one plot: there are no more colours."""
_SECONDS: Final = 2.0
"""Between two looks at the folders."""
_REST: Final = 5.0
"""How many times as long as it has read a page waits before it reads again: long runs take their time."""


class RunsTab:
    """The list of runs, and the figures of those that are shown."""

    def __init__(self, session: Session, folders: RunFolders) -> None:
        self._session = session
        self._folders = folders
        self._entries: list[RunEntry] = []
        self._listed: set[str] = set()
        """Names in the list."""
        self._reading, self._read_at = False, 0.0
        with ui.element("div").classes("pb-columns"):
            with ui.element("div").classes("pb-controls"), section("Runs"):
                self._list = ui.element("div").classes("pb-runs").props('role=group aria-label="Runs"')
            with ui.element("div").classes("pb-results"):
                self._error = error_line()
                self._status = ui.label().props("id=runs-status")
                self._results = ui.element("div")
                with self._results:
                    self._table = ui.html("", sanitize=False)
                    self._loss = Chart("Loss", "Loss over tokens; the table above has the latest figures")
                    self._speed = Chart("Speed", "Tokens per second; the table above has the mean")
                self._problems = ui.html("", sanitize=False)
        self._results.set_visibility(False)
        self._status.text = (
            "Reading..."
            if folders.folders
            else "No folder of runs was given: start again with --runs DIR, such as --runs runs"
        )
        if folders.folders:
            ui.timer(_SECONDS, self.refresh)

    async def refresh(self) -> None:
        """Read what has changed, where this tab is looked at."""
        wait = _REST * self._folders.read_seconds
        if self._reading or self._session.state.tab != "runs" or monotonic() < self._read_at + wait:
            return
        self._reading = True
        try:
            entries = await run.io_bound(self._folders.read)
        finally:
            self._reading, self._read_at = False, monotonic()
        if entries is not None and entries != self._entries and not self._results.is_deleted:
            self._entries = entries
            self._show()

    def _show(self) -> None:
        names = {entry.name for entry in self._entries}
        unknown = [name for name in self._session.state.runs if name and name not in names]
        show_error(
            self._error,
            f"there is no run {unknown[0]!r} in the given folders; choose one of the list"
            if unknown
            else None,
        )
        self._show_list()
        readable = [entry.run for entry in self._chosen_entries() if entry.run is not None]
        shown = readable[:_MOST_SHOWN]
        self._status.text = "No run was found in the given folders yet"
        if self._entries:
            fewer = f"; the newest {len(shown)} chosen are drawn" if len(shown) < len(readable) else ""
            self._status.text = f"{count_phrase(len(self._entries), 'run')} found, and followed{fewer}"
            if self._folders.left_out:
                self._status.text += f"; {self._folders.left_out:,} older ones are left out"
        self._results.set_visibility(bool(shown))
        if shown:
            self._table.content = html_table(run_rows(shown), "Runs")
            self._loss.show(charts.run_losses(shown))
            self._speed.show(charts.run_speeds(shown))
        self._problems.content = sentences(
            f"{entry.name}: {entry.problem}" for entry in self._entries if entry.problem
        )

    def _chosen_entries(self) -> Sequence[RunEntry]:
        chosen = self._session.state.runs
        return [entry for entry in self._entries if not chosen or entry.name in chosen]

    def _show_list(self) -> None:
        """List the runs; a list of the same names stays as it is, with the keyboard's focus in it."""
        names = {entry.name for entry in self._entries}
        if names == self._listed:
            return
        self._listed = names
        self._list.clear()
        chosen = {entry.name for entry in self._chosen_entries()}
        with self._list:
            for entry in self._entries:
                ui.checkbox(
                    entry.name,
                    value=entry.name in chosen,
                    on_change=lambda event, name=entry.name: self._choose(name, event.value),
                ).props("dense")

    def _choose(self, name: str, on: bool) -> None:
        before = [entry.name for entry in self._chosen_entries()]
        after = [each for each in [*before, name] if on or each != name]
        # An empty name stands for none of them: without any name all are shown.
        self._session.update(runs=tuple(dict.fromkeys(after)) or ("",))
        self._show()
