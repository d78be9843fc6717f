import io
import re
from contextlib import closing
from time import sleep
from types import SimpleNamespace

import pytest
from rich.console import Console

import parambudget as pb
from parambudget.render import progress
from parambudget.render.progress import StatusLine
from parambudget.render.training import StepLine, introduction, live_progress
from parambudget.training.metrics import StepMetrics

PEAK = 989.4e12


def step(number: int, loss: float | None = 2.0, **others) -> StepMetrics:
    figures = {"lr": 6e-4, "grad_norm": 1.0, "skipped": loss is None, "tokens": number * 1024}
    return StepMetrics(step=number, loss=loss, tokens_per_second=188_000.0, mfu=0.45, **figures | others)


def told(steps: list[StepMetrics], *, terminal: bool, n_steps: int = 100, width: int = 240) -> str:
    to = io.StringIO()
    console = Console(file=to, force_terminal=terminal, width=width, highlight=False)
    with live_progress(console, n_steps, PEAK, lambda: 33 * 2**30) as show:
        for each in steps:
            show(each)
    return to.getvalue()


def test_a_line_tells_all_there_is_to_watch():
    line = told([step(1, evaluated=True, val_loss=2.5, val_bits_per_byte=1.25)], terminal=False)
    assert line == (
        "step   1/100  loss 2.0000  smoothed 2.0000  lr 6.00e-04  188,000 tok/s  "
        "MFU 45.0% of 989.4 TFLOP/s dense, full convention  peak 33.0 GiB  val 2.5000  bits/byte 1.2500\n"
    )


def test_a_live_view_has_the_same_figures_and_the_time_that_is_left():
    shown = told([step(3), step(4)], terminal=True, width=80)
    for part in ("loss 2.0000", "smoothed", "188,000 tok/s", "MFU 45.0% of", "33.0 GiB", "4/100", "left:"):
        assert part in shown


def test_an_evaluation_stays_on_the_screen_above_the_live_view():
    shown = told([step(3, evaluated=True, val_loss=2.5, val_bits_per_byte=1.25), step(4)], terminal=True)
    assert shown.count("val 2.5000") == 1


@pytest.mark.parametrize("n_steps", [7, 100, 1_000])
def test_a_whole_run_is_about_20_plain_lines(n_steps):
    lines = told([step(i + 1) for i in range(n_steps)], terminal=False, n_steps=n_steps).splitlines()
    assert min(n_steps, 20) <= len(lines) <= 21
    assert lines[-1].startswith(f"step {n_steps}/{n_steps} ")


def test_the_smoothed_loss_is_a_mean_that_forgets():
    line = StepLine(1_000, None, lambda: None)
    for i in range(200):
        line.add(step(i + 1, 4.0))
    for i in range(100):
        line.add(step(i + 201, 2.0))
    assert "smoothed 2.01" in line.metrics(step(301, 2.0))
    assert "MFU" not in line.metrics(step(302))


def test_an_update_without_a_finite_loss_says_so_and_leaves_the_smoothed_one():
    line = StepLine(10, PEAK, lambda: None)
    line.add(step(1, 3.0))
    text = line.full(step(2, None))
    assert "loss not finite  smoothed 3.0000" in text
    assert text.endswith("update skipped")


def test_the_convention_of_an_mfu_is_explained_before_the_first_one(tmp_path):
    data = SimpleNamespace(
        name="text", sha256="0" * 64, n_documents=2, n_held_out=1, validation=[1], train=[1], train_bytes=4,
        entries=512, tokenizer_json="{}", bytes_of_token=[1], lost_share=None, trained_here=True,
        end_of_text=None,
    )  # fmt: skip
    model = pb.model(dim=64, n_layers=2, n_heads=2, vocab_size=512)
    for peak, explained in ((PEAK, True), (None, False)):
        console = Console(file=io.StringIO(), width=200)
        console.print(introduction(model, "cuda", data, tmp_path, peak))
        assert ("attention over the whole context" in console.file.getvalue()) == explained


def status_of(console: Console, *texts: str, seconds: float = 0.0) -> str:
    with closing(StatusLine(console)) as line:
        for text in texts:
            line.show(text)
            sleep(seconds)
    return console.file.getvalue()


def test_what_is_being_done_is_a_plain_line_each_where_nothing_can_be_overwritten():
    console = Console(file=io.StringIO(), width=20)
    assert (
        status_of(console, "reading the text of [b]", "compiling") == "reading the text of [b]\ncompiling\n"
    )


def test_a_long_wait_is_told_again_with_the_time_it_has_taken(monkeypatch):
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0.05)
    told = status_of(Console(file=io.StringIO()), "compiling", seconds=0.5).splitlines()
    assert told[0] == "compiling"
    assert re.fullmatch(r"compiling: [\d.]+ m?s so far", told[1])


def test_on_a_terminal_it_is_one_line_with_a_clock_that_vanishes():
    told = status_of(Console(file=io.StringIO(), force_terminal=True, width=80), "compiling [b]")
    assert "compiling [b]" in told
    assert "0:00:0" in told
    assert told.endswith("\x1b[2K")


def test_nothing_is_said_in_quiet():
    assert status_of(Console(file=io.StringIO(), quiet=True), "compiling") == ""
