"""What one browser has chosen, and who is told when it changes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nicegui import run, ui

from parambudget.arch.config import ModelConfig
from parambudget.errors import ParambudgetError
from parambudget.web.address import (
    NamedModel,
    PageState,
    display_name,
    with_form_value,
    write_address,
)


@dataclass
class Session:
    """The state of one page. Tabs change it and listen for the model's changes; the address follows."""

    state: PageState
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    @property
    def model(self) -> ModelConfig:
        """The model of the page."""
        return self.state.model.model

    def update(self, **changes: Any) -> None:
        """Change fields of the state, and the address with them."""
        self.state = replace(self.state, **changes)
        ui.run_javascript(f"pbAddress({'?' + write_address(self.state)!r})")

    def set_form(self, form: str, name: str, text: str) -> None:
        """Set one text of a form, "solve" or "plan"."""
        self.update(**{form: getattr(with_form_value(self.state, form, name, text), form)})

    def set_model(self, model: ModelConfig, preset: str | None = None, name: str | None = None) -> None:
        """Make this the model of the page; `preset` is where it comes from."""
        self.update(model=NamedModel(model, name or display_name(model, preset), preset))
        for listener in self._listeners:
            listener()

    def on_model(self, listener: Callable[[], None]) -> None:
        """Call this after each change of the model."""
        self._listeners.append(listener)


Result = TypeVar("Result")


def answer_or_error(function: Callable[[], Result]) -> Result | ParambudgetError:
    """What a function returns, or why it cannot, in one line. An exception that nobody foresaw is one too,
    and its traceback is in the log: the page goes on and never waits for what does not come."""
    try:
        return function()
    except ParambudgetError as error:
        return error
    except Exception as error:
        logging.getLogger(__name__).exception("a call of the page failed")
        return ParambudgetError(
            f"{type(error).__name__}: {error}; this is a defect of parambudget: please report it with the "
            "page's address"
        )


class LatestCall:
    """Runs functions in a thread; the result of an older call is dropped when a newer one has begun."""

    def __init__(self, shown_in: ui.element) -> None:
        self._shown_in = shown_in
        self._number = 0

    def drop(self) -> None:
        """Drop the result of the call that has begun, if one has."""
        self._number += 1

    async def run(self, function: Callable[[], Result]) -> Result | None:
        """The result; None where a newer call replaced this one, the page was closed or the server stops."""
        self._number += 1
        mine = self._number
        result = await run.io_bound(function)
        return result if mine == self._number and not self._shown_in.is_deleted else None
