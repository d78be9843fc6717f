"""The example notebook runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "budget.ipynb"


@pytest.fixture(scope="module")
def outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def rendered(outputs, kind):
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def test_solutions_render_as_tables(outputs):
    assert any("350,349,312" in table for table in rendered(outputs, "text/html"))


def test_solutions_a_plan_and_a_run_are_drawn(outputs):
    assert len(rendered(outputs, "image/png")) == 3


def test_the_formula_renders_itself(outputs):
    assert any("underbrace" in formula for formula in rendered(outputs, "text/latex"))


def test_the_built_module_agrees(outputs):
    assert "(350349312, ())" in rendered(outputs, "text/plain")


def test_the_notebook_is_kept_without_outputs():
    assert all(not cell.get("outputs") for cell in nbformat.read(NOTEBOOK, as_version=4).cells)


def test_the_notebook_uses_the_public_face_alone_and_its_first_cell_installs_what_it_needs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "from parambudget" not in code
    assert "to_pandas" in code
    assert "--with jupyter,pandas" in notebook.cells[0].source
