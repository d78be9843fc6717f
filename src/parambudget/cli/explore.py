"""`parambudget explore`: models, searches, plans and runs in the browser, served by this machine."""

import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from parambudget._install import require_packages
from parambudget.cli._options import parse_path, print_notice
from parambudget.errors import ConfigError
from parambudget.formats.source import load

LOCAL: Final = "127.0.0.1"
USUAL_PORT: Final = 8750
_START: Final = {"dim": 1024, "n_layers": 24}
"""The model of a page that is given none."""


def explore(
    source: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Config file or preset to begin with.")
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Show the training runs in DIR; can be repeated."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Listen on this address, which others may then reach.")
    ] = LOCAL,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Listen on this port.", show_default=f"{USUAL_PORT}, or a free one"),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Explore shapes, searches, plans and training runs in the browser.

    The page is served by this machine, to this machine alone, and needs no network. Ctrl-C stops it.

    parambudget explore llama-3.2-1b

    parambudget explore --runs runs
    """
    require_packages("explore", ["nicegui", "latex2mathml"], ["web"])
    folders = [_folder(text) for text in runs or []]
    start = load(source, {} if source is not None else _START)
    for note in start.notes:
        print_notice(f"note: {note}")
    from parambudget.web.address import NamedModel, PageState, display_name, preset_of
    from parambudget.web.server import listen, serve

    preset = preset_of(start.model, source)
    named = NamedModel(start.model, display_name(start.model, preset), preset)
    waiting, address = listen(host, port, USUAL_PORT)
    page = f"{address.url}?tab=runs" if folders and source is None else address.url

    def announce() -> None:
        typer.echo(f"parambudget explore: {page} (Ctrl-C stops it)")
        if not address.is_local:
            print_notice(
                f"anyone who reaches port {address.port} of this machine can see the page and its runs"
            )
        if open_browser and _has_screen():
            webbrowser.open(page)

    with suppress(KeyboardInterrupt):  # the usual way to end it
        serve(waiting, address, PageState(named), folders, announce)


def _has_screen() -> bool:
    """Whether a browser can have a window: on a server, one in the terminal would take the terminal."""
    return sys.platform != "linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ


def _folder(text: str) -> Path:
    path = parse_path(text)
    if not path.is_dir():
        raise ConfigError(f"--runs {text} is not a folder; give the folder that train wrote runs into")
    return path
