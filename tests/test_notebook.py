"""The example notebook runs from its first cell to its last, and keeps what it shows."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "budget.ipynb"
STORED = nbformat.read(NOTEBOOK, as_version=4).cells
TRAINING = next(i for i, cell in enumerate(STORED) if cell.source.startswith("## Train"))
"""From here on figures depend on the machine and on Python's own source."""


@pytest.fixture(scope="module")
def cells():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900).execute()
    return notebook.cells


def shown(cells, kind):
    """What the cells show of a kind, such as text/html."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def printed(cells):
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("kind", ["text/html", "text/latex"])
def test_its_tables_and_formulas_are_as_it_keeps_them(cells, kind):
    assert shown(cells[:TRAINING], kind) == shown(STORED[:TRAINING], kind) != []


def test_solutions_a_plan_and_a_run_are_drawn(cells):
    assert len(shown(cells, "image/png")) == len(shown(STORED, "image/png")) == 3


def test_the_formula_renders_itself_and_the_built_module_agrees(cells):
    assert any("underbrace" in formula for formula in shown(cells, "text/latex"))
    assert "(350349312, ())" in shown(cells, "text/plain")


def test_training_shows_its_progress_and_the_run_generates_text(cells):
    assert "step  20/100  loss " in printed(cells)
    assert "validation loss " in printed(cells)
    assert printed(cells[-1:]).strip()


def test_every_cell_has_run_and_nothing_is_written_to_standard_error():
    outputs = [output for cell in STORED for output in cell.get("outputs", [])]
    assert [cell.execution_count for cell in STORED if cell.cell_type == "code"] == list(
        range(1, sum(cell.cell_type == "code" for cell in STORED) + 1)
    )
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_it_uses_the_public_face_alone_and_its_first_cell_is_the_command_that_opens_it():
    code = "\n".join(cell.source for cell in STORED if cell.cell_type == "code")
    assert "from parambudget" not in code
    assert "to_pandas" in code
    opened_by = "uv run --extra train --with jupyterlab,pandas jupyter lab examples/budget.ipynb"
    assert opened_by in STORED[0].source
