"""The builder of the site as a module, for the tests of what it generates."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

WEBSITE = Path(__file__).parents[2] / "website"


def load_website(name: str) -> ModuleType:
    """website/NAME.py, which imports its neighbours."""
    if str(WEBSITE) not in sys.path:
        sys.path.append(str(WEBSITE))
    return importlib.import_module(name)
