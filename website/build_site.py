"""Build the documentation site: the pages of docs/, and reference pages that are generated from the code.

    uv run --group docs python website/build_site.py [FOLDER]

FOLDER (website/site unless given) is written, or replaced where it is empty or an earlier site: files for any
web server, such as `python -m http.server --directory website/site`. A warning of the builder, such as a link
or an anchor that leads nowhere, ends the build with 1.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from reference import command_pages, field_tables, gpus_page, python_pages, schema_pages

ROOT = Path(__file__).parents[1]
COPIED = {
    "benchmarks/README.md": "benchmark-scripts.md", "CHANGELOG.md": "changes.md",
    "skills/parambudget/SKILL.md": "skill.md",
}  # fmt: skip
"""Pages that stand outside of docs/ in the repository, and their names on the site."""

MARKER = ".parambudget-site"
"""A file of every site that was built here: only a folder that has it, or an empty one, is replaced."""


def write_pages(folder: Path) -> None:
    """All pages of the site: those of docs/ with the tables that they ask for, and the generated ones."""
    shutil.copytree(ROOT / "docs", folder)
    for source, name in COPIED.items():
        shutil.copy(ROOT / source, folder / name)
    tables = field_tables()
    for path in folder.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        for source, name in COPIED.items():
            text = text.replace(f"](../{source}", f"]({name}")
        if path.name in COPIED.values():
            text = text.replace("](../docs/", "](").replace("](docs/", "](")
        for marker, table in tables.items():
            text = text.replace(marker, table)
        path.write_text(_with_bars_in_code(text), encoding="utf-8")
    for name, text in (command_pages() | python_pages() | gpus_page() | schema_pages()).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _with_bars_in_code(text: str) -> str:
    """The page without the escape that GitHub needs for a bar in the code of a table, and the site shows."""
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace("\\|", "|"), text)


def navigation(entries: list[Any], pages: Path) -> list[Any]:
    """The entries, each folder (an entry that ends in a slash) with its pages, or left out without any."""
    return [each for entry in entries if (each := _entry(entry, pages)) is not None]


def _entry(entry: Any, pages: Path) -> Any:
    if isinstance(entry, str):
        return entry
    ((title, value),) = entry.items()
    if isinstance(value, list):
        value = navigation(value, pages)
    elif value.endswith("/"):
        value = [path.relative_to(pages).as_posix() for path in sorted((pages / value).glob("*.md"))]
    return {title: value} if value else None


def build(site: Path) -> int:
    """Build the site in a folder, which is replaced where it may be; the exit code of the builder."""
    if not may_replace(site):
        print(
            f"{site} is there and is no site that this script built; choose another folder, or remove it",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_pages(work / "pages")
        config = tomllib.loads((ROOT / "website" / "zensical.toml").read_text(encoding="utf-8"))["project"]
        config["nav"] = navigation(config["nav"], work / "pages")
        handler = config["plugins"]["mkdocstrings"]["handlers"]["python"]
        handler["paths"] = [str(ROOT / "src")]
        # JSON is YAML, and the standard library writes no TOML.
        (work / "mkdocs.yml").write_text(json.dumps(config), encoding="utf-8")
        shutil.copy(ROOT / "website" / "style.css", work / "pages" / "style.css")
        done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=work, check=False)
        if done.returncode == 0:
            replace(site, work / "site")
    return done.returncode


def may_replace(site: Path) -> bool:
    """Whether nothing but an earlier site is lost."""
    if not site.is_dir():
        return not site.exists()
    return (site / MARKER).is_file() or not any(site.iterdir())


def replace(site: Path, built: Path) -> None:
    """Put a copy of the built site there, in one step: a server never has half of it."""
    site = site.resolve()
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=f".{site.name}-") as name:
        beside = Path(name)
        shutil.copytree(built, beside / "new")
        (beside / "new" / MARKER).write_text("website/build_site.py built this folder and may replace it\n")
        if site.exists():
            site.rename(beside / "old")
        (beside / "new").rename(site)


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "website" / "site"))
