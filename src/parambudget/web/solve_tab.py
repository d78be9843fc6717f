"""The Solve tab: a target or a budget, the models that a search finds, and where they lie."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from nicegui import ui

from parambudget.arch.style import STYLES
from parambudget.errors import ParambudgetError
from parambudget.render.solutions import (
    rerun_command,
    search_remarks,
    solution_notes,
    solution_rows,
)
from parambudget.search.solutions import Solutions
from parambudget.units import count_phrase
from parambudget.web import charts
from parambudget.web.address import NamedModel, SolveForm, gpu_names, preset_of
from parambudget.web.calls import search
from parambudget.web.controls import (
    Chart,
    choice_field,
    copy_button,
    error_line,
    section,
    show_error,
    text_field,
)
from parambudget.web.markup import html_table, sentences
from parambudget.web.session import LatestCall, Session, answer_or_error

_STARTS: Final = {
    "free": "any shape of a style", "like": "the choices of the page's model",
    "resize": "the page's model, resized",
}  # fmt: skip
_COUNTED: Final = {
    "total": "all parameters", "body": "without embeddings and output head", "active": "used per token",
}  # fmt: skip
_RANKS: Final = {
    "": "as usual for the budget", "shape": "usual shapes first", "closest": "closest first",
    "loss": "lowest expected loss", "speed": "tokens/s", "memory": "least memory", "size": "most parameters",
}  # fmt: skip


_ROW_OF_CLICK: Final = """(event) => {
  const row = event.target.closest("tbody tr");
  if (row) emit(row.rowIndex - 1);
}"""


class SolveTab:
    """The form of a search, and its answers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._found: Solutions | None = None
        self._chosen: int | None = None
        """Row of the model that was taken."""
        self._command = ""
        with ui.element("div").classes("pb-columns"):
            with ui.element("form").classes("pb-controls").on("submit.prevent", self.search, args=[]):
                self._add_form()
            with ui.element("div").classes("pb-results"):
                self._error = error_line()
                self._busy = ui.row().classes("pb-busy").props("role=status")
                with self._busy:
                    ui.spinner(size="1.4em")
                    self._busy_text = ui.label("Searching...")
                self._busy.set_visibility(False)
                self._status = ui.label().props("aria-live=polite id=solve-status")
                self._table = ui.element("div").classes("pb-clickable")
                self._chart = Chart(
                    "Depth and width", "The models over depth and width; the table has the same figures",
                    self._take_point,
                )  # fmt: skip
                self._remarks = ui.html("", sanitize=False)
                self._call = LatestCall(self._remarks)
                self._copies = ui.element("div").classes("pb-copies")
                with self._copies:
                    copy_button("command of this search", lambda: self._command)
                    self._file_note = ui.label(
                        f"{OWN_FILE} stands for the file that you save the model in: Shape has "
                        "“Copy config.json”."
                    ).classes("pb-muted")
        self._show()

    def _add_form(self) -> None:
        form = self._session.state.solve
        with section("Size"):
            self._text("Target (parameters)", "target", hint="such as 350M or 1.3B; empty for a budget alone")
            choice_field("What the target counts", _COUNTED, form.counted, self._setter("counted"))
            self._text("Tolerance", "tolerance")
            self._text("Used per token (with experts)", "active")
        with section("Which models"):
            choice_field("Search", _STARTS, form.start, self._choose_start)
            self._style = choice_field(
                "Style", {name: name for name in STYLES}, form.style, self._setter("style")
            )
            self._text("Vocabulary", "vocab_size", placeholder="50257")
            self._text("Context length", "context_length", placeholder="1024")
            tied = {"": "by size", "true": "tied to the embedding", "false": "a matrix of its own"}
            choice_field("Output head", tied, form.tied, self._setter("tied"))
        self._free_only = [section("Budget"), section("Answers")]
        with self._free_only[0]:
            self._text("Hours", "hours")
            self._text("Dollars", "dollars")
            self._text("FLOPs", "flops", placeholder="1e19")
            self._text("Memory of one GPU", "memory", placeholder="24GB")
            self._text("Tokens in the text", "unique_tokens", placeholder="unlimited")
        with self._free_only[1]:
            choice_field("Order", _RANKS, form.rank, self._setter("rank"))
            self._text("How many", "top")
        with section("Machine"):
            gpus = {"": "none"} | {name: name for name in gpu_names()}
            choice_field("GPU", gpus, form.gpu, self._setter("gpu"), search=True)
            self._text("Number of GPUs", "gpus")
        self._show_fields()
        ui.button("Search", icon="search").props("type=submit no-caps unelevated").classes("pb-primary")

    def _text(self, label: str, name: str, *, hint: str = "", placeholder: str = "") -> None:
        value = getattr(self._session.state.solve, name)
        text_field(label, value, self._setter(name), hint=hint, placeholder=placeholder, wait=0)

    def _choose_start(self, start: str | None) -> None:
        self._setter("start")(start)
        self._show_fields()

    def _show_fields(self) -> None:
        """Show what has a meaning for the search that is chosen: a resized model keeps its choices and has
        one answer per direction."""
        start = self._session.state.solve.start
        self._style.set_visibility(start == "free")
        for part in self._free_only:
            part.set_visibility(start != "resize")

    def _setter(self, name: str) -> Callable[[str | None], None]:
        return lambda value: self._session.set_form("solve", name, value or "")

    async def search(self) -> None:
        """Search with the form as it is; a newer search replaces this one."""
        form, named = self._session.state.solve, self._session.state.model
        show_error(self._error, None)
        self._busy.set_visibility(True)
        found = await self._call.run(lambda: answer_or_error(lambda: search(form, named.model)))
        if found is None:
            return
        self._busy.set_visibility(False)
        self._found, self._chosen = None, None
        if not isinstance(found, ParambudgetError):
            found = answer_or_error(partial(self._take_answer, found, form, named)) or found
        if isinstance(found, ParambudgetError):
            self._found = None
            show_error(self._error, str(found))
            self._show()
        ui.run_javascript("pbReveal('solve-status')")

    def _take_answer(self, found: Solutions, form: SolveForm, named: NamedModel) -> None:
        self._found = found
        self._command = command_of_search(found, form, named)
        self._file_note.set_visibility(OWN_FILE in self._command)
        self._show()

    def _show(self) -> None:
        found = self._found
        for element in (self._remarks, self._copies, self._table):
            element.set_visibility(found is not None)
        if found is None:
            self._status.text = "" if self._error.visible else "No search yet: set a target or a budget."
            self._chart.hide()
            return
        checked = found.certificate.lattice_points
        self._status.text = f"{count_phrase(len(found), 'model')} of {checked:,} shapes that were checked"
        self._table.clear()
        with self._table:
            self._add_table(found)
        self._chart.show(charts.landscape(found, self._chosen))
        self._remarks.content = sentences(search_remarks(found)) + (
            f'<div class="pb-muted">{sentences(solution_notes(found))}</div>'
        )

    def _add_table(self, found: Solutions) -> None:
        rows = solution_rows(found, wide=True)
        table = ui.html(html_table(rows, "Models found", chosen=self._chosen, columns_left=2), sanitize=False)
        table.on(
            "click",
            lambda event: self._take_row(event.args),
            js_handler=_ROW_OF_CLICK,
        )
        with ui.element("div").classes("pb-copies").props('role=group aria-label="Take a model"'):
            for n, solution in enumerate(found):
                ui.button(f"Take {n + 1}: {solution.label}", on_click=lambda _, n=n: self._take(n)).props(
                    "flat dense no-caps"
                )

    def _take_row(self, row: Any) -> None:
        self._take(int(row))

    def _take_point(self, event: Any) -> None:
        if event.series_name == charts.MODELS:
            self._take(int(event.data_index))

    def _take(self, number: int) -> None:
        """Make the model of a row that of the page."""
        if self._found is None or not 0 <= number < len(self._found):
            return
        self._chosen = number
        solution = self._found[number]
        self._session.set_model(solution.model, name=solution.label)
        ui.notify(f"Model {number + 1} is now the page's model: see Shape and Plan", type="positive")
        self._show()


OWN_FILE: Final = "YOUR_MODEL.json"
"""Stands in a command for the file of a model that is no preset."""


def command_of_search(found: Solutions, form: SolveForm, named: NamedModel) -> str:
    """The command that gives the same answers to a form; `named` is the model of the page."""
    names = ["gpu", "gpus"]
    if form.start != "resize":
        names += ["hours", "dollars", "flops", "memory", "unique_tokens"]
    given = {name: value for name in names if (value := getattr(form, name).strip())}
    if given.get("gpus") == "1":  # as without the flag
        del given["gpus"]
    source = preset_of(named.model, named.preset) or OWN_FILE
    current, like = (source if form.start == start else None for start in ("resize", "like"))
    return rerun_command(found, given, current, like, named.model)
