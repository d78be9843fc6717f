"""The example notebooks run from their first cell to their last, and keep what they show.

`python tests/support/notebooks.py` runs them and stores what they show today.
"""

import re

import nbformat
import pytest
from support.notebooks import EXAMPLES, execute

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
STORED = {path.stem: nbformat.read(path, as_version=4).cells for path in NOTEBOOKS}
BUDGET = STORED["budget"]
TRAINING = next(i for i, cell in enumerate(BUDGET) if cell.source.startswith("## Train"))
"""From here on figures depend on the machine and on Python's own source."""


@pytest.fixture(scope="module")
def cells():
    return execute(EXAMPLES / "budget.ipynb").cells


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def shown(cells, kind):
    """What the cells show of a kind, such as text/html."""
    return [output["data"][kind] for output in outputs(cells) if kind in output.get("data", {})]


def printed(cells):
    return "".join(output.text for output in outputs(cells) if output.output_type == "stream")


@pytest.mark.parametrize("kind", ["text/html", "text/latex"])
def test_its_tables_and_formulas_are_as_it_keeps_them(cells, kind):
    assert shown(cells[:TRAINING], kind) == shown(BUDGET[:TRAINING], kind) != []


def test_solutions_a_plan_and_a_run_are_drawn_the_run_while_it_trains(cells):
    assert len(shown(cells, "image/png")) == len(shown(BUDGET, "image/png")) == 3
    training = cells[TRAINING + 1]
    assert len(shown([training], "image/png")) == 1
    assert "picture.update(" in training.source


def test_the_formula_renders_itself_and_the_built_module_agrees(cells):
    assert any("underbrace" in formula for formula in shown(cells, "text/latex"))
    assert "(350349312, ())" in shown(cells, "text/plain")


def test_models_are_compared_for_the_same_run(cells):
    compared = [table for table in shown(cells, "text/html") if "compared 2" in table]
    assert len(compared) == 1


def test_training_ends_with_a_validation_loss_and_the_run_generates_text(cells):
    assert "validation loss " in printed(cells)
    assert printed(cells[-1:]).strip()


@pytest.mark.slow
def test_runs_are_fitted_and_a_decision_is_made():
    cells = execute(EXAMPLES / "decide.ipynb").cells
    expected, measured = map(
        float, re.search(r"expected (\S+), measured (\S+) nats", printed(cells)).groups()
    )
    assert expected == pytest.approx(measured, rel=0.15)
    assert len(shown(cells, "image/png")) == 2
    (report,) = shown(cells, "text/markdown")
    assert report.startswith("# From 124.4M to 100M parameters")
    # The plans are of the library alone.
    assert printed(cells[-5:]) == printed(STORED["decide"][-5:])


@pytest.mark.parametrize("name", STORED)
def test_every_cell_has_run_and_shows_nothing_of_the_machine(name):
    code = [cell for cell in STORED[name] if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(STORED[name]) if output.get("name") == "stderr"]
    assert not [cell for cell in STORED[name] if cell.metadata]
    text = str([*shown(STORED[name], "text/plain"), *shown(STORED[name], "text/html"), printed(STORED[name])])
    assert not re.search(r"/(tmp|home|root|usr)/|Warning", text)


@pytest.mark.parametrize("name", STORED)
def test_it_uses_the_public_face_alone_and_its_first_cell_is_the_command_that_opens_it(name):
    code = "\n".join(cell.source for cell in STORED[name] if cell.cell_type == "code")
    assert "from parambudget" not in code
    assert "to_pandas" in code
    opened_by = f"uv run --extra train --with jupyterlab,pandas jupyter lab examples/{name}.ipynb"
    assert opened_by in STORED[name][0].source
