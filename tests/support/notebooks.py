"""Run the example notebooks and store what they show, without what belongs to one machine or one day:

uv run --group dev python tests/support/notebooks.py [NOTEBOOK ...]
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[2] / "examples"


def execute(path: Path) -> NotebookNode:
    """The notebook as it is after its last cell."""
    notebook = nbformat.read(path, as_version=4)
    # Matrices this small are slower on several threads, and very slow where others compete for them.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    NotebookClient(notebook, timeout=900, record_timing=False).execute(env=environment)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    return notebook


def main(names: list[str]) -> None:
    for path in map(Path, names) if names else sorted(EXAMPLES.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            # Neither what was measured on this machine nor its cache changes a notebook.
            os.environ |= {"XDG_DATA_HOME": f"{folder}/data", "XDG_CACHE_HOME": f"{folder}/cache"}
            nbformat.write(execute(path), path)


if __name__ == "__main__":
    main(sys.argv[1:])
