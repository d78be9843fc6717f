"""A server of the page and a browser, for the tests that need them."""

import shutil
from pathlib import Path

import pytest
from support.page_server import start_server, stop_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def watched(tmp_path_factory):
    """The folder of runs that the page is given."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def server(watched, tmp_path_factory):
    """The address of a running page."""
    pytest.importorskip("nicegui", reason="the extra `web` is not installed")
    pytest.importorskip("latex2mathml", reason="the extra `web` is not installed")
    process, address = start_server("--runs", watched, folder=tmp_path_factory.mktemp("server"))
    yield address
    code, _, errors = stop_server(process)
    assert (code, errors) == (0, "")


@pytest.fixture(scope="module")  # its driver has an event loop, with which no other test could have one
def chromium():
    """A real browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        # A container has no user namespaces for Chromium's sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, server):
    """Open the page with a query in a browser of its own; no request may leave this machine, and nothing may
    fail in the browser."""
    outside, problems, contexts = [], [], []

    def send(route):
        if not route.request.url.startswith(server):
            outside.append(route.request.url)
        route.continue_()

    def open_with(query="", **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        context.route("**/*", send)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{server}{query}")
        page.get_by_role("tab", name="Shape").wait_for()
        return page

    yield open_with
    for context in contexts:
        context.close()
    assert outside == []
    assert problems == []


@pytest.fixture(scope="session")
def tiny_run():
    """Write the folder of a run as `train` leaves it after so many updates, without training."""
    import parambudget as pb
    from parambudget._files import json_text
    from parambudget.training.metrics import StepMetrics, format_rows

    model = pb.model(dim=128, n_layers=4, vocab_size=512, context_length=128)

    def rows(n):
        return format_rows(
            StepMetrics(
                step=step, loss=2 + 4 / step, lr=1e-3, grad_norm=1.0, skipped=False, tokens=4096 * step,
                tokens_per_second=9000.0, mfu=None, evaluated=step % 5 == 0,
                val_loss=2.1 + 4 / step if step % 5 == 0 else None,
            )
            for step in range(1, n + 1)
        )  # fmt: skip

    def write(folder: Path, n, *, cut=b"", finished=False):
        folder.mkdir(exist_ok=True)
        document = {"model": model.model_dump(), "provenance": {}, "train": {"steps": 20}}
        (folder / "config.json").write_text(json_text(document))
        if finished:
            summary = {
                "finished": True, "parameters": pb.count(model).total, "steps": n, "tokens": 4096 * n,
                "loss": 2 + 4 / n, "val_loss": 2.1 + 4 / n, "val_bits_per_byte": None,
                "tokens_per_second": 9000.0, "mfu": None, "peak_flops": None,
                "peak_memory_bytes": 300 * 2**20, "seconds": 12.0, "update_seconds": 10.0, "device": "cpu",
                "planned": {"peak_memory_bytes": 310 * 2**20, "tokens_per_second": 9500.0,
                            "update_seconds": 0.43}, "checkpoint": None,
            }  # fmt: skip
            (folder / "summary.json").write_text(json_text(summary))
        (folder / "metrics.jsonl").write_bytes(rows(n) + cut)

    return write
