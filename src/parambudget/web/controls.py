"""The page's own controls, put together from those of NiceGUI: each has a name that a screen reader says."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

from nicegui import ui
from nicegui.events import EChartPointClickEventArguments, GenericEventArguments

from parambudget.arch.config import FIELDS
from parambudget.render.commands import runnable_command
from parambudget.web.charts import Options

TYPING: Final = 350
"""Milliseconds without a key after which a text is taken for complete."""
OnText = Callable[[str], None]


def text_field(
    label: str, value: str, on_change: OnText, *, hint: str = "", placeholder: str = "",
    wait: int = TYPING,
) -> ui.input:  # fmt: skip
    """A line of text that reports what is typed when nothing follows for so many milliseconds."""
    box = ui.input(
        label, value=value, placeholder=placeholder, on_change=lambda event: on_change(event.value or "")
    )
    box.props(f"dense outlined autocomplete=off spellcheck=false debounce={wait}")
    if hint:
        box.props(f"hint={_quote(hint)}")
    return box


class RangeSlider(ui.element, component="range_slider.js"):
    """A slider over given values, as the browser's own control: keyboards and screen readers know it."""

    def __init__(self, label: str, stops: Sequence[int], on_stop: Callable[[int], None]) -> None:
        super().__init__()
        self._value, self._times = stops[0], 0
        self._on_stop = on_stop
        self.props["label"], self.props["stops"] = label, list(stops)
        self.props["shown"] = [self._value, 0]
        self.on("slide", self._slide, throttle=0.03)

    def show(self, value: int) -> None:
        """Stand at the stop nearest to a value."""
        if value != self._value:
            self._value, self._times = value, self._times + 1
            self.props["shown"] = [value, self._times]

    def _slide(self, event: GenericEventArguments) -> None:
        self._value = int(event.args)
        self._on_stop(self._value)


def choice_field(
    label: str, options: Mapping[str, str], value: str, on_change: OnText, *, search: bool = False
) -> ui.select:  # fmt: skip
    """One of several values; with `search` they can be typed."""
    shown = dict(options)
    box = ui.select(
        shown, label=label, value=value, with_input=search, on_change=lambda event: on_change(event.value)
    )
    box.props("dense outlined options-dense behavior=menu")
    return box


def switch_field(label: str, value: bool, on_change: Callable[[bool], None]) -> ui.switch:
    """On or off."""
    return ui.switch(label, value=value, on_change=lambda event: on_change(event.value)).props("dense")


def copy_button(label: str, text: Callable[[], str]) -> ui.button:
    """A button that puts a text on the clipboard and says so."""

    def copy() -> None:
        ui.run_javascript(f"pbCopy({_javascript(text())}, {_javascript(label)})")

    return ui.button(f"Copy {label}", icon="content_copy", on_click=copy).props("flat dense no-caps")


class Chart:
    """A chart under a heading; its library is loaded with the first figures there are to draw."""

    def __init__(
        self, title: str, alternative: str,
        on_point: Callable[[EChartPointClickEventArguments], None] | None = None,
    ) -> None:  # fmt: skip
        self._on_point = on_point
        self._alternative = alternative
        self._chart: ui.echart | None = None
        self._place = section(title)
        self._place.set_visibility(False)

    def show(self, options: Options) -> None:
        """Draw these options in place of those before."""
        self._place.set_visibility(True)
        if self._chart is None:
            with self._place:
                self._chart = ui.echart(options, renderer="svg", on_point_click=self._on_point)
            self._chart.classes("pb-chart").props(f"role=img aria-label={_quote(self._alternative)}")
            return
        self._chart.options.clear()
        self._chart.options.update(options)
        self._chart.update()

    def hide(self) -> None:
        """Take the chart away until there are figures again."""
        self._place.set_visibility(False)


def error_line() -> ui.label:
    """Where the one line about a bad input stands; a screen reader says it at once."""
    line = ui.label().classes("pb-error").props("role=alert")
    line.set_visibility(False)
    return line


def show_error(line: ui.label, text: str | None) -> None:
    """Show the line with this text, or hide it. Arguments of the library become what the page calls them."""
    line.text = arguments_on_page(text or "")
    line.set_visibility(text is not None)


_FIELD_NAMES: Final = {
    "machine": "GPU", "gpu": "GPU", "gpus": "Number of GPUs", "dollars_per_hour": "Dollars per GPU and hour",
    "price": "Dollars per GPU and hour", "hours": "Hours", "dollars": "Dollars", "flops": "FLOPs",
    "memory": "Memory of one GPU", "tokens": "Tokens", "unique_tokens": "Tokens in the text",
    "target": "Target", "active": "Used per token", "tolerance": "Tolerance",
    "counted": "What the target counts", "rank": "Order", "top": "How many", "style": "Style",
    "batch_size": "Micro-batch", "gradient_accumulation_steps": "Micro-steps per update",
    "gradient_checkpointing": "Gradient checkpointing",
}  # fmt: skip
"""What the forms call an argument of the library."""
_NO_FIELD: Final = frozenset({
    "gpus_per_node", "gpu_memory", "gpu_tflops", "gpu_bandwidth", "grid_intensity", "network", "stack", "mfu",
    "law", "bytes_per_token", "anchor", "target_loss", "kv_groups", "ffn_ratio", "multiple", "inference",
})  # fmt: skip
"""Arguments that only the command line and the library take."""
_COMMANDS: Final = {
    "pb.calibrate()": ("calibrate",), "pb.ACCELERATORS": ("gpus",), "pb.PRESETS": ("presets",),
    "help(pb.ModelConfig)": ("count", "--help-model"), "help(pb.StepConfig)": ("plan", "--help-all"),
}  # fmt: skip
"""The command that does or shows what these do."""
_QUOTED: Final = re.compile(r"`([^`]+)`")
_ARGUMENT: Final = re.compile(r"([a-z_]+)(?:=(\S+))?")


def arguments_on_page(message: str) -> str:
    """A message of the library with the page's fields in place of the arguments that it has in backticks, and
    with flags of the command line for those that the page has no field for."""

    def page_text(quoted: re.Match[str]) -> str:
        if quoted[1] in _COMMANDS:
            return f"`{runnable_command(*_COMMANDS[quoted[1]])}`"
        matches = [_ARGUMENT.fullmatch(part) for part in quoted[1].split(", ")]
        arguments = [(match[1], match[2] or "") for match in matches if match is not None]
        names = {name for name, _ in arguments}
        if len(arguments) == len(matches) and names <= _FIELD_NAMES.keys():
            return ", ".join(f"“{_FIELD_NAMES[name]}” {value}".rstrip() for name, value in arguments)
        if len(arguments) == len(matches) and names <= _NO_FIELD:
            flags = [f"--{name.replace('_', '-')} {value}".rstrip() for name, value in arguments]
            return f"`{' '.join(flags)}` on the command line"
        return quoted[0]

    return _QUOTED.sub(page_text, message)


def section(title: str) -> ui.element:
    """A part of a page under a heading, as a context."""
    part = ui.element("section").classes("pb-section")
    with part:
        ui.html(f"<h2>{escape(title)}</h2>", sanitize=False)
    return part


def name_for_reader(element: ui.element, name: str) -> None:
    """What a screen reader calls an element that has no label of its own."""
    element.props(f"aria-label={_quote(name)}")


def explain(element: ui.element, field: str) -> None:
    """The field's name and meaning, where the mouse rests."""
    element.props(f"title={_quote(f'{field}: {FIELDS[field].description}')}")


def _javascript(text: str) -> str:
    return json.dumps(text).replace("</", "<\\/")


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "/").replace('"', "'") + '"'
