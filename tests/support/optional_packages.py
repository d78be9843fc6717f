"""What tests do without packages that are optional: they are skipped, with the package as the reason.

Where everything of `--group dev` is installed nothing is skipped, so a test cannot hide behind this.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

import pytest

from parambudget.errors import MissingExtra

OPTIONAL: Final = frozenset({
    "accelerate", "datasets", "filelock", "gguf", "griffe", "huggingface_hub", "ipykernel", "jsonschema",
    "latex2mathml", "matplotlib", "mcp", "mypy", "nbclient", "nbformat", "nicegui", "ortools", "pandas",
    "playwright", "pyarrow", "ruff", "safetensors", "scipy", "tensorboardX", "tokenizers", "torch", "trackio",
    "transformers", "wandb", "yaml", "zensical", "zstandard",
})  # fmt: skip
"""Modules that only some tests need: of the extras, and of the group `dev`."""
_NEEDS: Final = re.compile(r"needs ([\w, ]+?), not installed here")


def missing_package(problem: BaseException | str) -> str | None:
    """The optional package that an error, or what a command printed, is about; None for any other problem."""
    names: list[str] = []
    if isinstance(problem, ModuleNotFoundError):
        names = [str(problem.name).partition(".")[0]]
    elif isinstance(problem, MissingExtra | str) and (said := _NEEDS.search(str(problem))):
        names = said[1].split(", ")
    return next((name for name in names if name in OPTIONAL and find_spec(name) is None), None)


def skip_without(problem: BaseException | str, *, whole_file: bool = False) -> None:
    """Skip the test, or the whole file, if an optional package is missing; otherwise nothing happens."""
    if (name := missing_package(problem)) is not None:
        pytest.skip(f"needs {name}, which is not installed", allow_module_level=whole_file)


class ModuleOfTests(pytest.Module):
    """A file of tests that is skipped if it imports an optional package that is missing."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:  # type: ignore[override]
        """The tests of the file."""
        try:
            return super().collect()
        except self.CollectError as error:
            skip_without(error.__cause__ or error, whole_file=True)
            raise
        except MissingExtra as error:
            skip_without(error, whole_file=True)
            raise
