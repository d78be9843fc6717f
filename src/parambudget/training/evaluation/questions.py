"""Multiple-choice questions in JSON lines, in the form of HellaSwag: a context, its endings, the right one.

    {"context": "She opened the door and", "endings": ["walked in.", "ate it."], "label": 0}

HellaSwag's own files have `ctx` in place of `context`, and may have `label` as a string.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parambudget.errors import InputError
from parambudget.text.compression import open_bytes
from parambudget.text.forms import SourceFile, detect_form, form_name
from parambudget.text.records import parse_line, read_line
from parambudget.units import short_repr

_FORM: Final = 'JSON lines such as {"context": "...", "endings": ["...", "..."], "label": 0}'


@dataclass(frozen=True)
class Question:
    """A context, and the ending that follows it among others."""

    line: int
    """Of the file, from 1."""
    context: str
    endings: tuple[str, ...]
    label: int
    """Index of the right ending."""

    @property
    def continuations(self) -> tuple[str, ...]:
        """What follows the context literally: the endings, after a space where no white space separates
        them."""
        joined = not self.context or self.context[-1].isspace()
        return tuple(
            ending if joined or ending[0].isspace() else f" {ending}" for ending in self.endings
        )  # fmt: skip


@dataclass(frozen=True)
class QuestionFile:
    """The questions in a file."""

    name: str
    sha256: str
    """Of its content, unpacked."""
    questions: tuple[Question, ...]


def read_questions(path: Path) -> QuestionFile:
    """The questions in a file of JSON lines, compressed or not; the error names the line that is none."""
    if not path.is_file():
        raise InputError(f"no questions at {path}; give a file of {_FORM}")
    form = detect_form(path)
    if not isinstance(form, SourceFile) or form.form != "jsonl":
        found = form_name(form) if isinstance(form, SourceFile) else form
        raise InputError(f"{path} is {found}; give {_FORM}")
    digest, questions = hashlib.sha256(), []
    with open_bytes(path, form.compression) as file:
        lines = iter(lambda: read_line(file, f"a line of {path}"), b"")
        for n, line in enumerate(lines, 1):
            digest.update(line)
            if not line.removeprefix(b"\xef\xbb\xbf").strip():
                continue
            try:
                questions.append(_question(n, parse_line(line.removeprefix(b"\xef\xbb\xbf"))))
            except InputError as error:
                raise InputError(f"{path}, line {n}: {error}; write it as {_FORM}") from None
    return QuestionFile(str(path), digest.hexdigest(), tuple(questions))


def _question(line: int, record: Any) -> Question:
    if not isinstance(record, dict):
        raise InputError("not a JSON object")
    context = record.get("context", record.get("ctx"))
    if not isinstance(context, str):
        found = "no field 'context' or 'ctx'" if context is None else "the context is not a string"
        raise InputError(found)
    endings, label = record.get("endings"), record.get("label")
    if not isinstance(endings, list) or len(endings) < 2:
        raise InputError("'endings' is not a list of two or more strings")
    for text in endings:
        if not isinstance(text, str) or not text:
            raise InputError(f"the ending {short_repr(text)} is not a string with text in it")
    number = int(label) if isinstance(label, str) and label.isdecimal() else label
    if type(number) is not int or not 0 <= number < len(endings):
        raise InputError(f"'label' is {short_repr(label)}, not 0 to {len(endings) - 1}")
    if not all(map(_is_unicode, (context, *endings))):
        raise InputError("half a surrogate pair, which no UTF-8 text has")
    return Question(line, context, tuple(endings), number)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
