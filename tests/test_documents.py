"""Documents of ours come back as they were written, and no damage to them is taken for another value."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from parambudget._documents import CLOSED, SEAL, Count, read_with_seal, write_with_seal
from parambudget.errors import InputError


@dataclass(frozen=True)
class Part:
    __pydantic_config__ = CLOSED

    name: str


@dataclass(frozen=True)
class Whole:
    __pydantic_config__ = CLOSED

    n: Count
    share: float | None
    parts: tuple[Part, ...]


WHOLE = Whole(3, 0.1, (Part("a"), Part("b")))


@pytest.fixture
def path(tmp_path) -> Path:
    write_with_seal(tmp_path / "whole.json", WHOLE)
    return tmp_path / "whole.json"


def test_a_document_comes_back_however_it_is_laid_out(path):
    assert read_with_seal(path, Whole) == WHOLE
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(fields.items()))))
    assert read_with_seal(path, Whole) == WHOLE


def test_no_changed_byte_is_taken_for_another_value(path):
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        try:
            found = read_with_seal(path, Whole)
        except InputError:
            continue
        assert found == WHOLE, "a blank became another blank"


@pytest.mark.parametrize("document", ["[]", "null", "{}", '{"n": 3, "share": 0.1, "parts": []}'])
def test_a_document_without_a_seal_is_refused(path, document):
    path.write_text(document)
    with pytest.raises(InputError, match=f"has no {SEAL} of its content"):
        read_with_seal(path, Whole)
