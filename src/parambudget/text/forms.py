"""What the files of a source hold: decided by their content, the same way for everyone who reads them.

    plain text      UTF-8
    JSON lines      an object on every line, or on most of the first ones: a damaged one is refused later
    JSON            an array of objects or of strings, or objects over several lines
    parquet         b"PAR1"
    tokens          llm.c's files and Megatron's indexes, by their magic numbers

Text and JSON may be compressed (gzip, xz, bzip2, zstd), which is decided by the content too. A name decides
one thing: what begins like JSON in a file called .json, and holds no records, is not taken for plain text. In
a folder every file is either read or left out for a reason.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from parambudget._install import require_packages
from parambudget.errors import InputError
from parambudget.text.compression import Compression, compression_of, open_bytes
from parambudget.text.records import (
    MOST_DOCUMENT_BYTES,
    NoField,
    json_records,
    parse_line,
    text_of,
)
from parambudget.units import count_phrase

Form = Literal["text", "jsonl", "json", "parquet", "llm.c", "megatron"]
HUB_PREFIX: Final = "hf:"
"""Begins the name of what is on the Hugging Face hub."""
FORM_NAMES: Final[dict[Form, str]] = {
    "text": "plain text", "jsonl": "JSON lines", "json": "JSON", "parquet": "parquet",
    "llm.c": "llm.c's tokens", "megatron": "Megatron's tokens",
}  # fmt: skip
RECORD_FORMS: Final[frozenset[Form]] = frozenset({"jsonl", "json", "parquet"})
"""Forms that hold many documents, each in a field of a record."""
TokenDtype = Literal["uint8", "uint16", "uint32", "int32", "int64"]
"""Of ids in files that do not say it themselves."""
TOKEN_DTYPES: Final[tuple[TokenDtype, ...]] = get_args(TokenDtype)
TOKEN_FORMS: Final[frozenset[Form]] = frozenset({"llm.c", "megatron"})
LLM_C_MAGIC: Final = {20240520: "uint16", 20240801: "uint32"}
"""The first int32 of a file of tokens, and the type of its ids: for GPT-2's tokenizer and for Llama 3's.

Source: github.com/karpathy/llm.c, dev/data/data_common.py.
"""
MEGATRON_MAGIC: Final = b"MMIDIDX\x00\x00"
"""Source: github.com/NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py."""
_LLM_C_EVAL_MAGIC: Final = 20240522
_HEAD_BYTES: Final = 4_096
_BINARY: Final = "not text, or tokens of a type that is not given"
_MOST_EXAMPLES: Final = 5
_SAMPLE_BYTES: Final = 1_000_000
_SAMPLE_LINES: Final = 20
"""Of the beginning of a file, by which JSON lines are told from other text."""
_NO_RECORDS: Final = "JSON without records (objects or strings)"
_BROKEN_JSON: Final = "JSON that is damaged or cut short"
_OTHER_FILES: Final = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"ARROW1": "an Arrow file: convert it to parquet",
    b"\x93NUMPY": "a NumPy array",
    b"\xff\xfe": "UTF-16: convert it to UTF-8",
    b"\xfe\xff": "UTF-16: convert it to UTF-8",
}
_DESCRIPTIONS: Final = frozenset({"readme", "license", "licence", "copying", "notice", "citation"})
"""Files that describe a data set, by their names without ending."""
_TAR: Final = slice(257, 262), b"ustar"


@dataclass(frozen=True)
class SourceFile:
    """A file that can be read, and what it holds."""

    path: Path
    form: Form
    compression: Compression | None = None

    @property
    def is_plain_text(self) -> bool:
        """One document, as it stands on the disk."""
        return self.form == "text" and self.compression is None


@dataclass(frozen=True)
class LeftOut:
    """Files that are not read, and why."""

    reason: str
    """Why they were not read."""
    n_files: int
    """How many there are."""
    examples: tuple[str, ...]
    """The first names, relative to the source."""

    @classmethod
    def group(cls, reasons: Iterable[tuple[str, str]]) -> tuple["LeftOut", ...]:
        """Pairs of a name and a reason, counted by reason in the order in which they come."""
        names: dict[str, list[str]] = {}
        for name, reason in reasons:
            names.setdefault(reason, []).append(name)
        return tuple(
            cls(reason, len(those), tuple(those[:_MOST_EXAMPLES])) for reason, those in names.items()
        )

    def __str__(self) -> str:
        more = ", ..." if self.n_files > len(self.examples) else ""
        return f"{self.n_files:,} {self.reason} ({', '.join(self.examples)}{more})"


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """How many files are left out, which and why, in one line; empty if none is."""
    n_files = sum(each.n_files for each in left_out)
    if not n_files:
        return ""
    return f"{count_phrase(n_files, 'file')}: {', '.join(map(str, left_out))}"


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source, in order."""

    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def n_files(self) -> int:
        """Read or left out."""
        return len(self.files) + sum(each.n_files for each in self.left_out)

    @property
    def forms(self) -> dict[str, int]:
        """How many files there are of each form."""
        return dict(Counter(form_name(file) for file in self.files))

    @property
    def is_plain_text(self) -> bool:
        """Every file that is read is one document."""
        return all(file.is_plain_text for file in self.files)

    def without_tokens(self, source: Path) -> "SourceFiles":
        """The same without files of tokens; raises `InputError` if the source is one."""
        tokens = [file for file in self.files if file.form in TOKEN_FORMS]
        if tokens and tokens[0].path == source:
            raise InputError(
                f"{source} holds {form_name(tokens[0])} already: give it to train as `data`, as it is"
            )
        left_out = LeftOut.group((str(file.path.relative_to(source)), form_name(file)) for file in tokens)
        return SourceFiles(tuple(file for file in self.files if file not in tokens), self.left_out + left_out)


def form_name(file: SourceFile) -> str:
    """The form in words."""
    return FORM_NAMES[file.form] + (f", {file.compression}" if file.compression else "")


def find_files(source: Path, field: str = "text", *, skip_bad_lines: bool = False) -> SourceFiles:
    """What a file, or every file below a folder, holds.

    Of a folder's files those are left out that are empty, not text, without the field, or that only describe
    the records beside them. Raises `InputError` if that leaves none, or for the one file that is asked for.
    """
    if os.path.isfile(source):
        file = detect_form(source)
        if isinstance(file, str):
            hint = "give a file or folder of text, JSON lines, JSON or parquet"
            if file == _BINARY:
                hint = "to train on tokens without a header, give their type, such as `token_dtype=uint16`"
            elif file in (_NO_RECORDS, _BROKEN_JSON):
                hint = "give an array of objects or strings, or rename it to .txt to read it as plain text"
            raise InputError(f"{source} is {file}; {hint}")
        if not skip_bad_lines:
            _require_field(file, field)
        return SourceFiles((file,))
    if not os.path.isdir(source):
        what = _not_a_file(source)
        found = f"{source} is {what}" if what else f"no data at {source}"
        mixture = ", or a mixture, PATH=WEIGHT,PATH=WEIGHT" if "=" in str(source) else ""
        raise InputError(f"{found}; give a text file or a folder of text files{mixture}")
    files: list[SourceFile] = []
    reasons: list[tuple[str, str]] = []
    without_field: InputError | None = None
    for path, hidden in files_below(source):
        name = str(path.relative_to(source))
        file = "hidden" if hidden else detect_form(path)
        if isinstance(file, str):
            reasons.append((name, file))
            continue
        try:
            if not skip_bad_lines:
                _require_field(file, field)
        except NoField as error:
            if file.form == "json" and _is_one_object(file):
                file = SourceFile(path, "text", file.compression)
            else:
                without_field = without_field or error
                reasons.append((name, f"without the field {field!r}"))
                continue
        files.append(file)
    if any(file.form in RECORD_FORMS for file in files):
        describing = [file for file in files if file.form == "text" and _describes(file.path)]
        files = [file for file in files if file not in describing]
        reasons += [(str(file.path.relative_to(source)), "about the data") for file in describing]
    if not files and without_field is not None:
        raise without_field
    return SourceFiles(tuple(files), LeftOut.group(reasons))


def files_below(folder: Path) -> list[tuple[Path, bool]]:
    """Everything below the folder that is no folder itself, in order, and whether it is hidden."""
    return sorted(
        (path, any(part.startswith(".") for part in path.relative_to(folder).parts))
        for path in folder.rglob("*")
        if os.path.islink(path) or not os.path.isdir(path)
    )


def _not_a_file(path: Path) -> str | None:
    """What stands at a path in place of a file; None for a file, or for nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link to itself"
        return "a link to nothing" if os.path.islink(path) else None
    if stat.S_ISDIR(mode):
        return "a link to a folder"
    if stat.S_ISREG(mode):
        return None
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def _describes(path: Path) -> bool:
    return path.name.partition(".")[0].lower() in _DESCRIPTIONS


def detect_form(path: Path) -> SourceFile | str:
    """What the file holds, or why it cannot be read as text or tokens."""
    if what := _not_a_file(path):
        return what  # to open a pipe would wait for its writer
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give readable files") from None
    compression = compression_of(head)
    if compression is not None:
        with open_bytes(path, compression) as file:
            head = file.read(_HEAD_BYTES)
    form = _form_of(path, compression, head)
    if isinstance(form, str) and form in FORM_NAMES:
        if compression is None or form in ("text", "jsonl", "json"):
            return SourceFile(path, form, compression)
        return f"compressed {FORM_NAMES[form]}: unpack it"
    return form


def _form_of(path: Path, compression: Compression | None, head: bytes) -> Any:
    """A form, or a reason in other words."""
    magic = int.from_bytes(head[:4], "little")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(MEGATRON_MAGIC):
        return "megatron"
    if magic in LLM_C_MAGIC and len(head) >= 1_024:
        return "llm.c"
    if magic == _LLM_C_EVAL_MAGIC and b"\0" in head:
        return "llm.c's multiple-choice questions"
    if not head:
        return "empty"
    for start, reason in _OTHER_FILES.items():
        if head.startswith(start):
            return reason
    if head[_TAR[0]] == _TAR[1]:
        return "a tar archive: unpack it"
    if b"\0" in head or not _is_utf8(head):
        return _BINARY if path.suffix.lower() == ".bin" else "not text"
    beginning = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if beginning[:1] in (b"{", b"["):
        return _json_form(path, compression, is_object=beginning[:1] == b"{")
    return "jsonl" if _most_lines_are_objects(path, compression) else "text"


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == _HEAD_BYTES  # a character cut in two
    return True


def _json_form(path: Path, compression: Compression | None, *, is_object: bool) -> str:
    """Which JSON it is, if any: other text, such as code or Markdown, begins with a bracket too."""
    lines = _first_lines(path, compression)
    first = next(lines, b"") if is_object else b""  # an array may be one very long line
    if is_object:
        if len(first) > MOST_DOCUMENT_BYTES:  # whoever reads it says so
            return "jsonl"
        with suppress(InputError):
            if isinstance(parse_line(first), dict):
                return "jsonl"
    reason = _NO_RECORDS
    try:
        with open_bytes(path, compression) as file:
            records = json_records(file, str(path))
            _, record = next(records, (0, {}))
            if isinstance(record, str):
                next(records, None)  # what follows the string is JSON too
        if isinstance(record, dict | str):
            return "json"
    except InputError:
        # A first line that is damaged, or the only one, which was cut short.
        if first.startswith(b'{"') and next(lines, b"{").startswith(b"{"):
            return "jsonl"
        reason = _BROKEN_JSON
    if _most_lines_are_objects(path, compression):
        return "jsonl"
    return reason if ".json" in (suffix.lower() for suffix in path.suffixes[-2:]) else "text"


def _most_lines_are_objects(path: Path, compression: Compression | None) -> bool:
    """Whether these are JSON lines of which the first, or a few, are damaged.

    Where the first begins like an object, half of them are enough.
    """
    with open_bytes(path, compression) as file:
        sample = file.read(_SAMPLE_BYTES)
    if b"\n{" not in sample and b"\r{" not in sample:
        return False
    cut = sample[: sample.rfind(b"\n") + 1] if len(sample) == _SAMPLE_BYTES else sample
    lines = [line for line in cut.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()][:_SAMPLE_LINES]
    n_objects = sum(map(_is_object, lines))
    return 2 * n_objects + lines[0].lstrip().startswith(b"{") > len(lines) if lines else False


def _is_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(parse_line(line), dict)
    except InputError:
        return False


def _first_lines(path: Path, compression: Compression | None) -> Iterator[bytes]:
    """The lines that are not blank, without white space and byte-order mark."""
    with open_bytes(path, compression) as file:
        while line := file.readline(MOST_DOCUMENT_BYTES + 1):
            if stripped := line.removeprefix(b"\xef\xbb\xbf").strip():
                yield stripped


def _require_field(file: SourceFile, field: str) -> None:
    """Raise `NoField` if the first record has no such field."""
    if file.form == "parquet":
        require_package("pyarrow", f"reading {file.path}")
        from parambudget.text import parquet

        parquet.require_column(file.path, field)
        return
    if file.form not in RECORD_FORMS:
        return
    try:
        if file.form == "jsonl":
            record = parse_line(next(_first_lines(file.path, file.compression), b"null"))
        else:
            with open_bytes(file.path, file.compression) as stream:
                record = next(json_records(stream, str(file.path)), (1, None))[1]
        text_of(record, field)
    except NoField as error:
        where = "line" if file.form == "jsonl" else "record"
        raise NoField(f"{file.path}, {where} 1: {error}") from None
    except InputError:
        return  # whoever reads it says what is wrong, or skips it


def _is_one_object(file: SourceFile) -> bool:
    """Whether the file is a single JSON object, such as a configuration: a document like any other."""
    with open_bytes(file.path, file.compression) as stream:
        is_object = next(iter(stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").split()))[:1] == b"{"
    try:
        with open_bytes(file.path, file.compression) as stream:
            records = json_records(stream, str(file.path))
            return is_object and next(records, None) is not None and next(records, None) is None
    except InputError:
        return is_object


def require_package(package: str, what: str) -> None:
    """Raise `MissingExtra` with what to do unless the package is installed."""
    require_packages(what, [package], ["data", "train"])
