"""A training run on the terminal: what it will be, how it goes, and how it ended."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from parambudget.arch.config import ModelConfig
from parambudget.cost.params import total
from parambudget.render.commands import runnable_command
from parambudget.render.progress import StatusLine, make_console
from parambudget.render.runs import (
    describe_loss,
    forecast_in_words,
    forecast_rows,
    loss_range,
    update_profile_screen,
)
from parambudget.text.token_cache import TokenData
from parambudget.training.metrics import LossForecast, StepMetrics, TrainResult
from parambudget.training.profiling.update_profile import UpdateProfile
from parambudget.training.run.defaults import ResolvedTrainConfig
from parambudget.training.run.end_loss import RunForecast
from parambudget.training.run.forecast import Prediction
from parambudget.training.run.request import RunStart
from parambudget.units import (
    FULL_CONVENTION,
    count_phrase,
    format_bytes,
    format_count,
    format_flop_rate,
    format_mfu,
    format_seconds,
    format_share,
    plural,
)


class RunDisplay:
    """Shows a run as its events come. To be used as a context manager: it ends the live view on every way
    out."""

    def __init__(self, *, quiet: bool) -> None:
        self._console, self._stack = make_console(quiet=quiet), ExitStack()
        self._status = StatusLine(self._console)
        self._run: RunStart | None = None
        self._show_step: Callable[[StepMetrics], None] | None = None
        self._profile: UpdateProfile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def out(self) -> Path:
        """The folder of the run, once that has started."""
        return self._current_run.out

    @property
    def _current_run(self) -> RunStart:
        assert self._run is not None, "no run has started"
        return self._run

    def show_status(self, text: str | None) -> None:
        """What is being prepared; None: nothing any more."""
        if text is None:
            self._status.close()
        else:
            self._status.show(text)

    def show_start(self, run: RunStart) -> None:
        """Model, text and settings; then what the first update waits for."""
        self._run = run
        forecast = None if run.forecast is None else run.forecast.newest
        self._console.print(introduction(run.model, run.device, run.data, run.out, run.peak_flops, forecast))
        self._console.print(settings_table(run.settings, run.model))
        if run.data.parts:
            self._console.print(mixture_table(run.data, run.settings, run.model))
        self._status.show(_COMPILING if run.compiles else "making the first update")

    def show_step(self, step: StepMetrics) -> None:
        """An update that has been made."""
        if self._show_step is None:
            self._status.close()
            run = self._current_run
            self._show_step = self._stack.enter_context(
                live_progress(
                    self._console,
                    run.settings.config.steps,
                    run.peak_flops,
                    run.peak_memory_bytes,
                    run.planned,
                    run.forecast,
                )
            )
        self._show_step(step)

    def show_profile(self, profile: UpdateProfile) -> None:
        """Where the time of the updates went that were profiled."""
        self._profile = profile
        for line in update_profile_screen(profile, self._current_run.out):
            self._console.print(Text.from_ansi(line), soft_wrap=True)

    def show_result(self, result: TrainResult) -> None:
        """End the live view and print the result."""
        self._close()
        self._console.print(conclusion(result, self._current_run.model, self._profile))
        if result.checkpoint is not None:
            run = shlex.quote(str(result.checkpoint.parent.parent))
            for command in ("runs show", "sample"):
                # A command stays on one line, however narrow the terminal: it is there to be pasted.
                self._console.print(
                    runnable_command(command, run), soft_wrap=True, markup=False, highlight=False
                )

    def _close(self) -> None:
        self._status.close()
        self._stack.close()


_COMPILING: Final = (
    "compiling the model and making the first update; the first time, 24 layers take about a minute"
)
"""71 s of processor time with inductor, torch 2.15."""


def introduction(
    model: ModelConfig, device: str, data: TokenData, out: Path, peak_flops: float | None,
    forecast: LossForecast | None = None,
) -> Table:  # fmt: skip
    """What will be trained, on which text, where the run is kept, what the MFU is a share of, and what was
    planned of its end."""
    table = Table.grid(padding=(0, 2))
    table.add_row("model", f"{total(model):,} parameters, on {device}")
    table.add_row("text", f"{data.name}: {_documents(data)}sha256 {data.sha256[:16]}")
    length = "" if data.train_bytes is None else f", {data.train_bytes / len(data.train):.2f} bytes each"
    table.add_row("tokens", f"{format_count(len(data.train))} to train on{length}")
    table.add_row("tokenizer", f"{data.entries:,} entries" if data.tokenizer_json else "not known")
    for line in (_unused_rows(model, data), _no_bits_per_byte(data)):
        if line:
            table.add_row("", line)
    if data.end_of_text is not None and not data.trained_here:
        table.add_row("end of text", Text(f"{data.end_of_text.token}, {data.end_of_text.reason}"))
    table.add_row("out", str(out))
    if peak_flops is not None:
        table.add_row("MFU", f"share of {format_flop_rate(peak_flops)} dense; {FULL_CONVENTION}")
    if forecast is not None and forecast.planned is not None:
        table.add_row("plan", f"ends at {loss_range(forecast.planned)} nats per token, by {forecast.law}")
    return table


def _documents(data: TokenData) -> str:
    """How many documents there are, and what of them is held out."""
    if data.n_documents is None:
        return ""
    held_out = f"{data.n_held_out:,} held out"
    if not data.n_held_out and len(data.validation):
        held_out = f"the end of {'the longest' if data.n_documents > 1 else 'it'} held out"
    return f"{count_phrase(data.n_documents, 'document')}, {held_out}, "


def _unused_rows(model: ModelConfig, data: TokenData) -> str:
    n_unused = model.vocab_size - data.entries
    if n_unused <= 0:
        return ""
    parameters = format_count(total(model) - total(model.replace(vocab_size=data.entries)))
    has = f"The text supports only {count_phrase(data.entries, 'token')}"
    if not data.tokenizer_json:
        has = f"The ids are all below {data.entries:,}"
    elif not data.trained_here:
        has = f"The tokenizer has only {count_phrase(data.entries, 'entry')}"
    rows = f"{count_phrase(n_unused, 'vocabulary row')} ({parameters} parameters)"
    return f"{has}; {rows} stay{'s' * (n_unused == 1)} unused. Use --vocab-size {data.entries}."


def _no_bits_per_byte(data: TokenData) -> str:
    if data.lost_share is not None:
        return f"{describe_loss(data.lost_share)} Bits per byte are left out."
    if data.bytes_of_token is None:
        return "Without a tokenizer bits per byte are left out. Name it with --tokenizer."
    return ""


def settings_table(completed: ResolvedTrainConfig, model: ModelConfig) -> Group:
    """Every setting, with the reason for those that were not given, and where the laws behind them end."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("setting", "value", "why"):
        table.add_column(heading)
    config = completed.config
    update_tokens = config.step.tokens_per_update(model.context_length)
    for name, value in config.model_dump().items():
        why = completed.reasons.get(name, "given" if name in completed.given else "")
        table.add_row(name, _format_setting(value), why)
    n_tokens = config.steps * update_tokens
    tokens = f"{format_count(n_tokens)} {plural(n_tokens, 'token')}"
    updates = f"{count_phrase(config.steps, 'update')} of {count_phrase(update_tokens, 'token')}"
    warnings = [Text(f"warning: {warning}") for warning in completed.warnings]
    return Group("", table, "", *warnings, *([""] if warnings else []), f"{updates}: {tokens}", "")


def mixture_table(data: TokenData, completed: ResolvedTrainConfig, model: ModelConfig) -> Group:
    """The sets of a mixture, and how often the run reads each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("set", "share", "tokens", "read by the run", "epochs"):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    config = completed.config
    n_tokens = config.steps * config.step.tokens_per_update(model.context_length)
    for part in data.parts:
        read, there = float(n_tokens * part.share), len(part.data.train)
        share = format_share(float(part.share), 1).removeprefix("+")
        table.add_row(part.name, share, format_count(there), format_count(read), f"{read / there:.2f}")
    return Group(table, "")


def conclusion(result: TrainResult, model: ModelConfig, profile: UpdateProfile | None) -> Table:
    """The result of the run, with the predictions beside the measurements. `profile` is that of this
    session."""
    table = Table.grid(padding=(0, 2))
    table.add_row()
    table.add_row("parameters", f"{result.parameters:,} (planned {total(model):,})")
    trained = f"{count_phrase(result.steps, 'update')}, {count_phrase(result.tokens, 'token')}"
    updating = f"{format_seconds(result.update_seconds)} without evaluation and saving"
    table.add_row("trained", f"{trained}, {updating}")
    table.add_row("session", f"{format_seconds(result.seconds)} with everything")
    planned = result.planned or {}
    rate, peak = planned.get("tokens_per_second"), planned.get("peak_memory_bytes")
    speed = f"{result.tokens_per_second:,.0f} tokens/s on {result.device}"
    if rate is not None:
        speed += f", planned {rate:,.0f} ({format_share(result.tokens_per_second / rate - 1, 1)})"
    if result.mfu is not None and result.peak_flops is not None:
        speed += f", MFU {format_mfu(result.mfu, result.peak_flops)}"
    table.add_row("speed", speed)
    if result.peak_memory_bytes is not None:
        memory = format_bytes(result.peak_memory_bytes)
        if peak is not None:
            difference = format_share(result.peak_memory_bytes / peak - 1, 1)
            memory += f", planned {format_bytes(peak)} ({difference})"
        if profile is not None and profile.is_in_peak_memory:
            memory += ", the profiler's recording in it"
        table.add_row("peak memory", memory)
    if result.val_loss is not None:
        bits = result.val_bits_per_byte
        per_byte = "" if bits is None else f", {bits:.4f} bits per byte"
        table.add_row("validation", f"{result.val_loss:.4f} nats per token{per_byte}")
        if result.finished and result.forecast is not None:
            for name, text in forecast_rows(result.forecast, result.val_loss).items():
                table.add_row(name, text)
    if result.checkpoint is not None:
        table.add_row("checkpoint", str(result.checkpoint))
    return table


def _format_setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value or "none")


MOST_SILENT_SECONDS: Final = 30.0
PLAIN_LINES: Final = 20
"""Lines for a whole run where the output is not a terminal, beside evaluations and those after long
silences."""
SMOOTHING: Final = 0.95
"""Share of the smoothed loss that stays at each update: it is a mean over about the last 20."""


@contextmanager
def live_progress(
    console: Console, n_steps: int, peak_flops: float | None, peak_memory: Callable[[], int | None],
    planned: Prediction | None = None, forecast: RunForecast | None = None,
) -> Iterator[Callable[[StepMetrics], None]]:  # fmt: skip
    """Yield what to call after each update: it keeps a progress bar and the latest metrics on the terminal.

    `peak_memory` returns the most bytes used so far, if known. What was `planned` is shown beside the
    metrics, and the `forecast` of the end.
    """
    line = StepLine(n_steps, peak_flops, peak_memory, planned, forecast)
    if not console.is_terminal:
        yield _plain_progress(console, line)
        return
    bar = Progress(
        TextColumn("training"), BarColumn(bar_width=None), MofNCompleteColumn(),
        TextColumn("left:"), TimeRemainingColumn(compact=True), TextColumn(_planned_time(planned, n_steps)),
        console=console, expand=True,
    )  # fmt: skip
    with Live(bar, console=console, refresh_per_second=4) as live:
        task: TaskID | None = None

        def show(step: StepMetrics) -> None:
            nonlocal task
            if task is None:  # a resumed run does not start at 0
                task = bar.add_task("train", total=n_steps, completed=step.step - 1)
            bar.update(task, completed=step.step)
            live.update(Group(bar, Padding(line.metrics(step), (0, 0, 0, 2))))
            if step.evaluated or step.skipped:
                live.console.print(line.full(step), highlight=False)

        yield show


@dataclass
class StepLine:
    """Writes the metrics of updates as text; keeps the smoothed loss, so it has to see each update once."""

    n_steps: int
    peak_flops: float | None
    """What the MFU is a share of."""
    peak_memory: Callable[[], int | None]
    planned: Prediction | None = None
    forecast: RunForecast | None = None
    """Of the run's end."""
    _sum: float = 0.0
    _weight: float = 0.0
    _last_step: int = -1

    def full(self, step: StepMetrics) -> str:
        """The update on a line of its own, with the evaluation after it if there was one."""
        line = f"step {step.step:>{len(str(self.n_steps))}}/{self.n_steps}  {self.metrics(step)}"
        if step.val_loss is not None:
            line += f"  val {step.val_loss:.4f}"
        elif step.evaluated:
            line += "  val not finite"
        if step.val_bits_per_byte is not None:
            line += f"  bits/byte {step.val_bits_per_byte:.4f}"
        return line

    def metrics(self, step: StepMetrics) -> str:
        """Loss and smoothed loss, learning rate, speed and memory."""
        self.add(step)
        loss = f"loss {step.loss:.4f}" if step.loss is not None else "loss not finite"
        rate, peak = (None, None) if self.planned is None else self.planned.table_cells
        parts = [loss, f"lr {step.lr:.2e}", f"{step.tokens_per_second:,.0f} tok/s{_in_plan(rate)}"]
        if self._weight:
            parts.insert(1, f"smoothed {self._sum / self._weight:.4f}")
        if step.mfu is not None and self.peak_flops is not None:
            parts.append(f"MFU {format_mfu(step.mfu, self.peak_flops)}")
        if (used := self.peak_memory()) is not None:
            parts.append(f"peak {format_bytes(used)}{_in_plan(peak)}")
        if step.skipped:
            parts.append("update skipped")
        if self.forecast is not None and (end := forecast_in_words(self.forecast.newest)):
            parts.append(end)
        return "  ".join(parts)

    def add(self, step: StepMetrics) -> None:
        """Add an update to the smoothed loss, whether or not it is shown."""
        if step.step != self._last_step and step.loss is not None:
            self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * step.loss
            self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        self._last_step = step.step


def _in_plan(planned: str | None) -> str:
    return "" if planned is None else f" (planned {planned})"


def _planned_time(planned: Prediction | None, n_steps: int) -> str:
    """How long all updates were predicted to take."""
    if planned is None or planned.update_seconds is None:
        return ""
    return f"planned: {format_seconds(n_steps * planned.update_seconds)}"


def _plain_progress(console: Console, line: StepLine) -> Callable[[StepMetrics], None]:
    every = -(-line.n_steps // PLAIN_LINES)
    last = perf_counter()

    def show(step: StepMetrics) -> None:
        nonlocal last
        line.add(step)
        silent = perf_counter() - last > MOST_SILENT_SECONDS
        if silent or step.step == 1 or step.step % every == 0 or step.evaluated or step.skipped:
            console.print(line.full(step), highlight=False, soft_wrap=True)
            last = perf_counter()

    return show
