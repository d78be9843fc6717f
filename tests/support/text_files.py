"""The same documents as files of every format."""

import json
import random
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
from support.training_data import WORDS

COMMAND = [sys.executable, "-c", "from parambudget.cli.main import main; main()"]


def documents(n: int = 60, n_words: int = 80, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [
        f"Größe {i}: " + " ".join(WORDS[int(draw.random() * len(WORDS))] for _ in range(n_words))
        for i in range(n)
    ]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def write_parquet(path: Path, texts: list[str], rows_per_group: int = 7) -> Path:
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=rows_per_group)
    return path


def write_files(path: Path, texts: list[str]) -> Path:
    path.mkdir()
    for i, text in enumerate(texts):
        (path / f"{i:04}.txt").write_text(text, encoding="utf-8")
    return path


def write_separated(path: Path, texts: list[str]) -> Path:
    path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    return path
