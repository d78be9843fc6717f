"""The page: a header, four tabs, and the state in its address."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nicegui import ui

from parambudget.web.address import CHOICES, PageState, Theme, read_address
from parambudget.web.controls import error_line, show_error
from parambudget.web.plan_tab import PlanTab
from parambudget.web.run_folders import RunFolders
from parambudget.web.runs_tab import RunsTab
from parambudget.web.session import Session
from parambudget.web.shape_tab import ShapeTab
from parambudget.web.solve_tab import SolveTab

_TABS: Final = {"shape": "Shape", "solve": "Solve", "plan": "Plan", "runs": "Runs"}
_DARK: Final[dict[Theme, bool | None]] = {"auto": None, "light": False, "dark": True}
_THEMES: Final = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}
_STYLE: Final = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_SCRIPT: Final = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Explorer:
    """What the server shows to every browser."""

    start: PageState
    """The page that opens without a query."""
    runs: RunFolders


def build_page(explorer: Explorer, query: str) -> None:
    """Build the page of one browser from the query of its address."""
    state, problem = read_address(query, explorer.start)
    ui.add_css(_STYLE)
    ui.colors(primary="#0b5fae")
    ui.add_head_html(f"<script>{_SCRIPT}</script>")
    session = Session(state)
    dark = ui.dark_mode(_DARK[state.theme])
    with ui.element("header").classes("pb-header"):
        ui.html("<h1>parambudget</h1>", sanitize=False)
        with ui.tabs().props('dense no-caps inline-label aria-label="Tools"') as tabs:
            for name, label in _TABS.items():
                ui.tab(name, label)
        tabs.value = state.tab
        _add_theme_button(session, dark)
    with ui.element("div").classes("pb-main"):
        banner = error_line().props("id=address-error")
        show_error(banner, None if problem is None else f"{problem}. The rest of the address is shown.")
        with ui.tab_panels(tabs, value=state.tab, animated=False, keep_alive=True).classes("pb-panels"):
            with ui.tab_panel("shape"):
                ShapeTab(session)
            with ui.tab_panel("solve"):
                SolveTab(session)
            with ui.tab_panel("plan"):
                plan_tab = PlanTab(session)
            with ui.tab_panel("runs"):
                runs_tab = RunsTab(session, explorer.runs)

    async def show_tab(name: str) -> None:
        session.update(tab=name)
        if name == "plan":
            plan_tab.refresh()
        if name == "runs":
            await runs_tab.refresh()

    tabs.on_value_change(lambda event: show_tab(event.value))
    if state.tab == "plan":
        plan_tab.refresh()


def _add_theme_button(session: Session, dark: ui.dark_mode) -> None:
    names = CHOICES["theme"]

    def show() -> None:
        theme = session.state.theme
        button.props(f'icon={_THEMES[theme]} aria-label="Theme: {theme}; switch"')
        button.props(f'title="Theme: {theme}"')
        dark.value = _DARK[theme]

    def switch() -> None:
        following = names[(names.index(session.state.theme) + 1) % len(names)]
        session.update(theme=following)
        show()

    button = ui.button(on_click=switch).props("flat round dense").classes("pb-theme")
    show()
