"""Training runs, prepared text and measured devices as screens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parambudget.cost.speed.profile import DeviceProfile
from parambudget.render.commands import data_flag, runnable_command
from parambudget.render.terminal import dim, table
from parambudget.scaling.loss_interval import LossInterval
from parambudget.text.forms import describe_left_out
from parambudget.training.evaluation.results import Evaluation, read_evaluations
from parambudget.training.metrics import LossForecast, Run
from parambudget.training.profiling.kernels import Part
from parambudget.training.profiling.update_profile import TRACE, UpdateProfile
from parambudget.units import (
    FULL_CONVENTION,
    count_phrase,
    format_bytes,
    format_count,
    format_mfu,
    format_seconds,
    format_share,
)

if TYPE_CHECKING:
    from parambudget.text.shards import Manifest


def runs_screen(runs: Sequence[Run]) -> list[str]:
    """The screen of `runs show`: the figures of each run, one run a column; rows that no run has are left
    out."""
    rows = run_rows(runs)
    lines = table(rows, left=(0, 1) if len(runs) == 1 else (0,), head=True)
    has_mfu = any("convention" in cell for row in rows for cell in row if row[0] == "MFU")
    return lines + ([dim(f"MFU is in the {FULL_CONVENTION}")] if has_mfu else [])


def run_rows(runs: Sequence[Run]) -> list[list[str]]:
    """The names of the runs as headings, and a row of cells for each figure that any of them has."""
    columns = [_figures(run.as_dict()) | _forecast_figures(run) for run in runs]
    rows = [["run", *(run.name for run in runs)]]
    for name in columns[0]:
        cells = [column[name] for column in columns]
        if any(cells):
            rows.append([name, *(cell or "-" for cell in cells)])
    return rows


def _figures(figures: Mapping[str, Any]) -> dict[str, str]:
    planned = f"{figures['planned']:,}"
    built = figures["parameters"]
    state = "finished" if figures["finished"] else "not finished"
    plan = figures["planned_figures"] or {}
    rate, peak, seconds = map(plan.get, ("tokens_per_second", "peak_memory_bytes", "update_seconds"))
    speed = f"{figures['tokens_per_second']:,.0f} tokens/s"
    planned_steps = figures["planned_steps"] or figures["steps"]
    return {
        "state": f"{state}, {figures['steps']:,} of {count_phrase(planned_steps, 'update')}",
        "parameters": f"{planned} (as planned)" if built == figures["planned"] else _mismatch(built, planned),
        "tokens": format_count(figures["tokens"]),
        "mixture": ", ".join(
            f"{each['name']} {format_share(each['share'], 1).removeprefix('+')} ({each['epochs']:.2f} epochs)"
            for each in figures["mixture"]
        ),
        "training time": format_seconds(figures["update_seconds"])
        + _beside_plan(seconds, lambda seconds: format_seconds(seconds * figures["steps"])),
        "speed": speed + _beside_plan(rate, lambda rate: f"{rate:,.0f}"),
        "MFU": format_mfu(figures["mfu"], figures["peak_flops"])
        if figures["mfu"] is not None and figures["peak_flops"] is not None
        else "not given: the device's peak FLOP/s is not known",
        "peak memory": "not measured"
        if figures["peak_memory_bytes"] is None
        else format_bytes(figures["peak_memory_bytes"]) + _beside_plan(peak, format_bytes),
        "device": figures["device"] or "",
        "training loss": _value_or(figures["loss"], "{:.4f} nats per token", "not finite"),
        "validation loss": _value_or(
            figures["val_loss"],
            "{:.4f} nats per token",
            "not finite" if figures["evaluations"] else "not evaluated",
        ),
        "": _value_or(figures["val_bits_per_byte"], "{:.4f} bits per byte", ""),
        "by set": ", ".join(
            f"{name} {_value_or(loss, '{:.4f}', 'not finite')}"
            for name, loss in (figures["val_loss_by_set"] or {}).items()
        ),
        "best validation": _value_or(figures["best_val_loss"], "{:.4f} at step ", "")
        + _value_or(figures["best_step"], "{:,}", ""),
        "updates skipped": f"{figures['skipped']:,}",
    }


_FORECASTS: Final = ("planned loss", "forecast")


def _forecast_figures(run: Run) -> dict[str, str]:
    summary, rows = run.summary, dict.fromkeys(_FORECASTS, "")
    if summary is None or summary.forecast is None:
        return rows
    return rows | forecast_rows(summary.forecast, summary.val_loss if summary.finished else None)


def loss_range(loss: LossInterval) -> str:
    """`3.08 (3.05 to 3.11)`."""
    return f"{loss.expected:.2f} ({loss.low:.2f} to {loss.high:.2f})"


def forecast_in_words(forecast: LossForecast) -> str:
    """`ends at 3.08 (3.05 to 3.11), on course` with a law, without the last words if there is none; empty
    where the curve does not say yet."""
    ends_at, planned = forecast.ends_at, forecast.planned
    if ends_at is None:
        return ""
    text = f"ends at {loss_range(ends_at)}"
    if planned is None:
        return text
    if ends_at.overlaps(planned):
        return f"{text}, on course"
    off = ends_at.expected - planned.expected
    return f"{text}, {abs(off):.2f} {'above' if off > 0 else 'below'} the plan"


def forecast_rows(forecast: LossForecast, measured: float | None) -> dict[str, str]:
    """What was planned and forecast of the end, beside what was `measured` there if it is."""
    rows = {"forecast": forecast_in_words(forecast)}
    if forecast.planned is not None:
        rows["planned loss"] = f"by {forecast.law} {_against(forecast.planned, measured)}"
    if measured is not None and forecast.halfway is not None:
        rows["forecast"] = f"halfway {_against(forecast.halfway, measured)}"
    return {name: text for name, text in rows.items() if text}


def _against(predicted: LossInterval, measured: float | None) -> str:
    if measured is None:
        return loss_range(predicted)
    off = format_share(predicted.expected / measured - 1, 1)
    inside = "inside" if predicted.contains(measured) else "outside"
    return f"{loss_range(predicted)}: off by {off}, {measured:.2f} is {inside}"


def _beside_plan(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else f" (planned {form(value)})"


def _mismatch(built: int | None, planned: str) -> str:
    return f"{planned} (planned)" if built is None else f"{built:,}, planned {planned}"


def _value_or(value: float | None, form: str, missing: str) -> str:
    return missing if value is None else form.format(value)


def evaluations_screen(run: Run) -> list[str]:
    """A line for each evaluation of a run's checkpoints; none if there was none."""
    rows = []
    for evaluation in read_evaluations(run.folder):
        figures = [
            f"{row['figure']} {row['value']:.4f} on {row['file']}"
            for row in evaluation.rows() if row["figure"] in ("acc_norm", "bits_per_byte")
        ]  # fmt: skip
        rows.append(["evaluated", f"{evaluation.checkpoint}: {', '.join(figures)}"])
    return table(rows, left=(0, 1)) if rows else []


def evaluation_screen(evaluation: Evaluation) -> list[str]:
    """The screen of `eval`: what a checkpoint reaches, and how it was measured."""
    rows = [["model", f"{evaluation.checkpoint}, on {evaluation.device}"], *evaluation_rows(evaluation)]
    return table(rows, left=(0, 1))


def evaluation_rows(evaluation: Evaluation) -> list[list[str]]:
    """A name and a value for each figure of an evaluation."""
    rows: list[list[str]] = []
    if (choices := evaluation.choices) is not None:
        guessing = f"guessing gets {format_share(choices.chance, 1).removeprefix('+')}"
        rows += [
            ["choices", f"{choices.file}: {count_phrase(choices.n_questions, 'question')}, {guessing}"],
            ["acc", _accuracy(choices.acc, choices.acc_stderr)],
            ["acc_norm", _accuracy(choices.acc_norm, choices.acc_norm_stderr) + " (per character)"],
        ]
        if choices.n_truncated:
            cut = f"the beginning of the context cut off in {count_phrase(choices.n_truncated, 'question')}"
            rows.append(["", f"{cut}, to fit context_length={evaluation.context_length:,}"])
    if (text := evaluation.text) is not None:
        documents = "" if text.n_documents is None else f"{count_phrase(text.n_documents, 'document')}, "
        size = "" if text.n_bytes is None else f", {count_phrase(text.n_bytes, 'byte')}"
        windows = f"in windows of {evaluation.context_length:,} that do not overlap"
        rows += [
            ["text", f"{text.file}: {documents}{count_phrase(text.n_tokens, 'token')}{size}"],
            ["loss", f"{text.loss:.4f} nats per token, {windows}"],
        ]
        if text.bits_per_byte is not None:
            rows.append(["", f"{text.bits_per_byte:.4f} bits per byte"])
        elif text.lost_share is not None:
            rows.append(["", f"{describe_loss(text.lost_share)} Bits per byte are left out."])
    return rows


def _accuracy(share: float, stderr: float | None) -> str:
    return f"{share:.4f}" + ("" if stderr is None else f" ± {stderr:.4f}")


def update_profile_screen(profile: UpdateProfile, folder: Path) -> list[str]:
    """Where the time of an update went, beside the plan of each part; and the kernels that took longest."""
    steps = f"update {profile.first_step:,}"
    if profile.n_updates > 1:
        steps = f"updates {profile.first_step:,} to {profile.last_step:,}"
    whole, planned = profile.sum_seconds, profile.planned
    rows = [["part", "measured", "share", *(["planned"] if planned is not None else []), ""]]
    for part, seconds in profile.seconds.items():
        if seconds or (planned or {}).get(part):
            rows.append(_part_row(part, seconds, whole, planned, _PART_CONTENTS[part]))
    sum_planned = None if planned is None else {"sum": sum(planned.values())}
    rows.append(_part_row("sum", whole, whole, sum_planned, _compared_with(profile)))
    kernels = [
        [_milliseconds(kernel.seconds), f"{kernel.calls:,.0f} x", kernel.part, _short_name(kernel.name)]
        for kernel in profile.kernels[:_KERNELS_SHOWN]
    ]
    return [
        "",
        f"where the time of an update goes: {steps}, on average, on {profile.device}",
        *table(rows, left=(0, len(rows[0]) - 1), head=True),
        *([] if planned is not None else [dim("No plan: the speed of this device is not known; "
            f"{runnable_command('calibrate')} measures it.")]),
        *([dim("The peak memory of this session has the profiler's recording in it.")]
            if profile.is_in_peak_memory else []),
        "longest:",
        *table(kernels, left=(2, 3)),
        f"trace: {folder / TRACE} (for ui.perfetto.dev or chrome://tracing)",
        "",
    ]  # fmt: skip


_KERNELS_SHOWN: Final = 5
_PART_CONTENTS: Final[dict[Part, str]] = {
    "matmuls": "products with weight matrices",
    "attention": "scores, softmax and values",
    "elementwise": "norms, residuals, activations, rotations, and all that is not named here",
    "loss": "softmax over the vocabulary and its gradient",
    "weights": "casts of weights, and adding up gradients",
    "clip": "norm of the gradient, and scaling it",
    "optimizer": "its whole step",
    "communication": "between processes, where no arithmetic hides it",
    "copies": "to, from and within the device's memory; not planned",
    "data": "waiting for a batch; not planned",
    "idle": "nothing runs on the device; planned: launching kernels",
}


def _part_row(
    part: str, seconds: float, whole: float, planned: Mapping[Any, float] | None, contents: str
) -> list[str]:
    expected = [] if planned is None else [_milliseconds(planned[part]) if part in planned else "-"]
    share = f"{100 * seconds / whole:.1f} %" if whole else "-"
    return [part, _milliseconds(seconds), share, *expected, contents]


def _compared_with(profile: UpdateProfile) -> str:
    """How much of the measured time of an update the parts explain."""
    explained = f"{100 * profile.sum_seconds / profile.update_seconds:.1f} %"
    measured = _milliseconds(profile.update_seconds)
    return f"{explained} of the {measured} that an update took by the clock, the profiler's own time included"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.{1 if seconds < 1 else 0}f} ms"


def _short_name(name: str, most: int = 100) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def preparation_screen(manifest: Manifest, out: Path) -> list[str]:
    """The screen of `data prepare`: what there is to train on."""
    held_out = f"{manifest.validation.n_documents:,} held out"
    length = f"{manifest.train_bytes / max(1, manifest.n_tokens):.2f} bytes each"
    skipped = _skip_counts(manifest)
    rows = [
        ["text", f"{manifest.source}: {count_phrase(manifest.n_documents, 'document')}, {held_out}"],
        *([["form", _forms(manifest)]] if manifest.forms else []),
        *([["left out", describe_left_out(manifest.left_out)]] if manifest.left_out else []),
        *([["skipped", skipped]] if skipped else []),
        [
            "tokens",
            f"{manifest.n_tokens:,} to train on, {length}, and {manifest.validation.n_tokens:,} to validate",
        ],
        ["tokenizer", f"{manifest.tokenizer}, {count_phrase(manifest.entries, 'entry')}"],
        *([] if manifest.reversible else [["", describe_loss(manifest.lost_share) + _WITHOUT_BITS]]),
        ["end of text", f"{manifest.end_of_text}, {manifest.end_of_text_reason}"],
        ["files", f"{len(manifest.shards):,} of {manifest.dtype} in {out}, listed in manifest.json"],
        *(["note", note] for note in manifest.notes),
        ["next", runnable_command("train", "MODEL", f"--vocab-size {manifest.entries}", data_flag(out))],
    ]
    return table(rows, left=(0, 1))


_WITHOUT_BITS: Final = " Training gives no bits per byte."


def describe_loss(lost_share: float) -> str:
    """That a tokenizer does not give back the text, and how much of it is lost."""
    if not lost_share:
        return "The tokenizer does not give back the text as it was, though no byte is lost."
    share = format_share(lost_share, 1 if lost_share >= 0.001 else 4)
    return f"The tokenizer loses {share.removeprefix('+')} of the text's bytes."


def _forms(manifest: Manifest) -> str:
    """How many files there are of each form; a single file needs no number."""
    if sum(manifest.forms.values()) == 1:
        return next(iter(manifest.forms))
    return ", ".join(f"{form} ({count_phrase(n, 'file')})" for form, n in manifest.forms.items())


def _skip_counts(manifest: Manifest) -> str:
    counts = {"with null or empty text": manifest.n_empty, "damaged or without text": manifest.n_bad}
    return ", ".join(f"{n:,} {which}" for which, n in counts.items() if n)


def profile_screen(profile: DeviceProfile) -> list[str]:
    """What a device reaches with its software, and the interval in which its speed is predicted."""
    once, most = format_seconds(profile.micro_seconds), format_share(profile.fastest - 1, 0)
    least = format_seconds(profile.matrix_seconds)
    rows = [
        ["device", profile.device],
        ["software", f"{profile.name}, {profile.dtype}"],
        ["source", profile.source + (f", {profile.measured_on}" if profile.measured_on else "")],
        ["matmuls", f"{_rate(profile.matmul_flops)}, each operand moved "
            f"{profile.matmul_traffic:.2g} times between memory and chip"],
        ["attention", f"{_rate(profile.attention_flops)}, counting the scores that the mask leaves"],
        ["Muon", f"{_rate(profile.newton_schulz_flops)}, at least {least} per stack"],
        ["memory", f"{format_bytes(profile.bandwidth_bytes)} per second"],
        ["elementwise", f"{profile.element_bytes:.3g} bytes per token and output of a matmul"],
        ["loss", f"{profile.logit_bytes:.3g} bytes per token and vocabulary entry"],
        ["overhead", f"{once} per micro-step, {format_seconds(profile.layer_seconds)} per layer"],
        ["interval", f"tokens/s from {format_share(profile.slowest - 1, 0)} to {most} of what is expected"],
    ]  # fmt: skip
    return table(rows, left=(0, 1))


def _rate(flops: float) -> str:
    return f"{format_count(float(f'{flops:.3g}'))} FLOP/s"
