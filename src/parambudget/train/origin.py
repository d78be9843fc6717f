"""Where the text of a run lies, kept in its config file, so that the file trains the same text again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from parambudget.errors import InputError
from parambudget.text.token_cache import TokenData

_DATA: Final = "data"
_TEXT: Final = "corpus_sha256"


def where(text: Path | None) -> dict[str, str | None]:
    """What a run's provenance says of it: an absolute path; null for Python's standard library."""
    return {_DATA: None if text is None else str(text.absolute())}


def text_of_run(provenance: Mapping[str, Any]) -> Path | None:
    """The text of the run that a config file is of; None where it was Python's standard library, or where the
    file is of no run."""
    if _TEXT not in provenance:
        return None
    # What was trained from Python has no path of its own beside the name of the text.
    named = provenance.get(_DATA, provenance.get("corpus"))
    if named is None:
        return None
    text = Path(str(named))
    if not text.exists():
        raise InputError(f"the text of the run is not at {text} any more; say where it is with --data")
    return text


def text_told(provenance: Mapping[str, Any], data: TokenData, on_notice: Callable[[str], None]) -> None:
    """Say where the text of a new run is not that of the run whose config file it starts from."""
    there = provenance.get(_TEXT, data.sha256)
    if there != data.sha256:
        on_notice(
            f"the text is not that of the config file: {str(there)[:16]} there, {data.sha256[:16]} here"
        )
