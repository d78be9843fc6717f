"""How large are the package's files and folders, and how much of it is untyped?

    python benchmarks/structure.py

Lines include blank lines and comments; empty `__init__.py` files are left out. `Any` is counted as a word,
imports included.
"""

import re
from collections import Counter
from pathlib import Path
from statistics import median

SOURCE = Path(__file__).parent.parent / "src" / "parambudget"


def main() -> None:
    """Print one line a figure."""
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    lines = {path: len(text.splitlines()) for path, text in texts.items() if text}
    total = sum(lines.values())
    folder, n_files = Counter(path.parent for path in lines if path.name != "__init__.py").most_common(1)[0]
    any_count = sum(len(re.findall(r"\bAny\b", text)) for text in texts.values())
    print(f"files            {len(lines)}")
    print(f"lines            {total:,}")
    print(f"median file      {median(lines.values()):g} lines")
    print(f"largest file     {max(lines.values())} lines")
    print(f"largest folder   {folder.relative_to(SOURCE)}, {n_files} files")
    print(f"Any              {1000 * any_count / total:.1f} per 1,000 lines")


if __name__ == "__main__":
    main()
