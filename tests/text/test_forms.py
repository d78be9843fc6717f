"""What a file holds is decided by its content, for every reader."""

import bz2
import contextlib
import gzip
import json
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.text_files import documents, write_jsonl, write_parquet

from parambudget.errors import InputError
from parambudget.text import forms, records
from parambudget.text.forms import SourceFile, detect_form, find_files
from parambudget.text.records import Skipped, TextLayout, json_records, parse_line
from parambudget.text.sources import find_source, read_chunks
from parambudget.text.token_files import find_tokens

TEXTS = documents(12)
JSON_LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def read(path: Path, skipped: Skipped | None = None, **layout: object) -> list[str]:
    """The documents of a source, as `data prepare` reads them."""
    how = TextLayout(**layout)
    slices = find_source(str(path), how).slices
    return [chunk.text for part in slices for chunk in read_chunks(part, how, skipped)]


def form_of(path: Path, content: bytes | str) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = detect_form(path)
    return found.form if isinstance(found, SourceFile) else found


@pytest.mark.parametrize("name", ["corpus.json", "a.JSONL", "notes.txt", "data", "b.parquet"])
def test_json_lines_are_so_under_every_name(tmp_path, name):
    (tmp_path / name).write_bytes(JSON_LINES)
    assert read(tmp_path / name) == TEXTS


@pytest.mark.parametrize("name", ["a.parquet", "a.pq", "A.PQ", "a.txt", "a"])
def test_parquet_is_so_under_every_name(tmp_path, name):
    assert read(write_parquet(tmp_path / name, TEXTS)) == TEXTS


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"text": text} for text in TEXTS]),
        json.dumps([{"text": text} for text in TEXTS], indent=2),
        json.dumps(TEXTS),
        "\ufeff  " + json.dumps(TEXTS),
        "\n".join(json.dumps({"text": text, "id": 1}, indent=4) for text in TEXTS),
    ],
    ids=["array", "indented", "strings", "byte-order mark", "objects"],
)
def test_a_json_array_and_objects_over_lines_are_records(tmp_path, content):
    (tmp_path / "corpus.txt").write_text(content, encoding="utf-8")
    assert read(tmp_path / "corpus.txt") == TEXTS


COMPRESS = {
    "gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress, "zstd": zstandard.compress,
    "zstd in frames": lambda text: zstandard.compress(text[:99]) + zstandard.compress(text[99:]),
}  # fmt: skip


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
@pytest.mark.parametrize("form", ["jsonl", "array", "text", "separated"])
def test_compressed_files_are_read_like_the_others(tmp_path, compress, form):
    content, layout = {
        "jsonl": (JSON_LINES, {}),
        "array": (json.dumps(TEXTS).encode(), {}),
        "text": (TEXTS[0].encode(), {}),
        "separated": ("##".join(TEXTS).encode(), {"separator": "##"}),
    }[form]
    (tmp_path / "a.txt").write_bytes(compress(content))
    assert read(tmp_path / "a.txt", **layout) == (TEXTS[:1] if form == "text" else TEXTS)


@pytest.mark.parametrize("compress", list(COMPRESS.values())[:4], ids=list(COMPRESS)[:4])
def test_a_compressed_file_that_is_cut_short_is_one_line(tmp_path, compress):
    (tmp_path / "a.gz").write_bytes(compress(JSON_LINES)[:-9])
    with pytest.raises(InputError, match=r"a\.gz is damaged"):
        read(tmp_path / "a.gz")


def test_a_long_compressed_text_is_one_document_in_chunks(tmp_path):
    text = "".join(f"line {i} änderung\n" for i in range(100_000))
    (tmp_path / "a.txt").write_bytes(zstandard.compress(text.encode()))
    (part,) = find_source(str(tmp_path / "a.txt"), TextLayout()).slices
    chunks = list(read_chunks(part, TextLayout()))
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.ends for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("plain words\n", "text"),
        ("{% if jinja %}\n{% endif %}\n", "text"),
        ("{ int x; }\n", "text"),
        ("[link](https://example.org) and text\n", "text"),
        ('["quoted"](link) and text\n', "text"),
        ("[1, 2, 3]\n", "text"),
        ("{'text': 'of Python'}\n", "text"),
        ('{"text": "a"}', "jsonl"),
        ('{"text": "a"}\nnot JSON\n', "jsonl"),
        ('{"text": "cut short', "jsonl"),
        ('{"text": \n{"text": "a"}\n', "jsonl"),
        ('[{"text": "a"}, {"te', "json"),
        ("[]", "json"),
        (b"{oops\n" + JSON_LINES, "jsonl"),
        (b"oops}\n" + JSON_LINES, "jsonl"),
        (b"[1, 2]\n" + JSON_LINES, "jsonl"),
        (gzip.compress(b"{oops\n" + JSON_LINES, mtime=0), "jsonl"),
        ('{oops\n{"text": "a"}\n', "jsonl"),
        ('An example:\n{"text": "a"}\nand so on\n', "text"),
        ("", "empty"),
        (b"PAR1...", "parquet"),
        (b"PK\x03\x04\0", "a zip archive: unpack it"),
        (b"\x89PNG\0", "not text"),
        ("ä".encode("utf-16"), "UTF-16: convert it to UTF-8"),
        (gzip.compress(b"a" * 257 + b"ustar\0", mtime=0), "a tar archive: unpack it"),
        (gzip.compress(b"PAR1...", mtime=0), "compressed parquet: unpack it"),
    ],
)
def test_the_form_follows_from_the_content(tmp_path, content, form):
    assert form_of(tmp_path / "file.txt", content) == form


def test_a_file_that_may_be_text_by_its_name_only_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_bytes(b"\0\1")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / ".hidden").write_text("text")
    found = find_files(tmp_path)
    assert [file.path.name for file in found.files] == ["a.txt"]
    assert [(each.reason, each.examples) for each in found.left_out] == [
        ("hidden", (".hidden",)), ("not text", ("b.txt",)), ("empty", ("c.txt",)),
    ]  # fmt: skip
    assert found.n_files == 4


def test_a_damaged_first_line_is_refused_or_skipped_like_any_other(tmp_path):
    (tmp_path / "a").write_bytes(b"{oops\n" + JSON_LINES)
    with pytest.raises(InputError, match=r"a, line 1: not valid JSON .* or skip such lines"):
        read(tmp_path / "a")
    assert read(tmp_path / "a", skip_bad_lines=True) == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "[1, 2, 3]", "JSON without records (objects or strings)"),
        ("a.json", "{'text': 1}", "JSON that is damaged or cut short"),
        ("a.JSON.gz", gzip.compress(b"[[1]]", mtime=0), "JSON without records (objects or strings)"),
    ],
)
def test_json_without_records_is_no_plain_text(tmp_path, name, content, reason):
    assert form_of(tmp_path / name, content) == reason
    with pytest.raises(InputError, match=r"give an array of objects or strings, or rename it to \.txt"):
        read(tmp_path / name)


@pytest.fixture
def no_files(tmp_path: Path) -> dict[str, str]:
    """What is no file in the folder, with its reason."""
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    for link, target in {"dangling": "nothing", "loop": "loop", "folder": "."}.items():
        (tmp_path / link).symlink_to(target)
    return {
        "dangling": "a link to nothing", "folder": "a link to a folder", "loop": "a link to itself",
        "pipe": "a pipe",
    }  # fmt: skip


def test_what_is_no_file_is_left_out_by_name(tmp_path, no_files):
    found = find_files(tmp_path)
    assert [file.path.name for file in found.files] == ["a.txt"]
    assert {name: each.reason for each in found.left_out for name in each.examples} == no_files
    for name in ("pipe", "dangling", "loop"):
        with pytest.raises(InputError, match=f"{name} is {no_files[name]}; give a text file"):
            find_files(tmp_path / name)


def test_a_name_that_is_too_long_for_a_file_is_none():
    for find in (find_source, lambda path, _: find_files(Path(path))):
        with pytest.raises(InputError, match="no data at aaaa"):
            find("a" * 5_000, TextLayout())
    assert find_tokens(Path("a" * 5_000)) is None


def test_a_configuration_beside_text_is_text(tmp_path):
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "package.json").write_text(json.dumps({"name": "x"}, indent=2))
    assert find_files(tmp_path).is_plain_text
    assert len(find_files(tmp_path).files) == 2
    with pytest.raises(InputError, match=r"record 1: no field 'text', only 'name'; name it with `field`"):
        find_files(tmp_path / "package.json")


def test_records_without_the_field_are_refused_if_there_is_nothing_else(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_parquet(tmp_path / "b.pq", TEXTS)
    assert len(find_files(tmp_path, "text").files) == 2
    with pytest.raises(InputError, match="no field 'body', only 'id', 'text'; name it with `field`"):
        find_files(tmp_path, "body")


def test_null_is_no_document_in_any_form(tmp_path):
    texts = ["one", None, "", "two"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in texts]))
    write_parquet(tmp_path / "a.parquet", texts)
    for name in ("a.jsonl", "a.json", "a.parquet"):
        skipped = Skipped()
        assert read(tmp_path / name, skipped) == ["one", "two"]
        assert (skipped.n_empty, skipped.n_bad) == (2, 0)


# JSON as a stream


class Drip(BytesIO):
    """A file that gives a few bytes at a time."""

    def __init__(self, content: bytes, n: int) -> None:
        super().__init__(content)
        self.n = n

    def read(self, size: int | None = -1) -> bytes:  # noqa: ARG002
        return super().read(self.n)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(values, max_size=5), st.integers(1, 9), st.booleans(), st.sampled_from([None, 2]), st.booleans()
)
def test_an_array_is_read_in_pieces_of_any_size(expected, n, ascii_only, indent, cut):
    content = json.dumps(expected, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    try:
        content.decode()
    except UnicodeDecodeError:
        return
    if cut:
        with pytest.raises(InputError):
            list(json_records(Drip(content[:-1], n), "a"))
    else:
        assert [record for _, record in json_records(Drip(content, n), "a")] == expected


@pytest.mark.parametrize(
    "content", ['[{"text": "a"} {"text": "b"}]', '[{"a": tru}]', "[1] 2", "[" * 99_999, '[{"a": 1},]']
)
def test_what_is_no_array_is_one_line(content):
    with pytest.raises(InputError):
        list(json_records(BytesIO(content.encode()), "a.json"))


def test_a_record_without_end_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr(records, "MOST_DOCUMENT_BYTES", 10_000_000)
    endless = Endless(b'[{"text": "')
    with pytest.raises(InputError, match="record 1 is longer than 10,000,000 bytes"):
        list(json_records(endless, "a.json"))
    assert endless.n_read < 50_000_000


class Endless(BytesIO):
    """A beginning, and then letters without end."""

    n_read = 0

    def read(self, size: int | None = -1) -> bytes:
        self.n_read += size or 0
        return super().read(size) or b"a" * (size or 0)


def test_an_array_on_one_line_is_not_read_as_a_whole_to_see_what_it_is(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in TEXTS] * 4_000))
    n_read = []

    class Counting(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            n_read.append(len(content := super().read(size)))
            return content

        def readline(self, size: int | None = -1) -> bytes:
            n_read.append(len(content := super().readline(size)))
            return content

    @contextmanager
    def open_counting(path: Path, _: object) -> Iterator[BytesIO]:
        yield Counting(path.read_bytes())

    monkeypatch.setattr(forms, "open_bytes", open_counting)
    assert form_of(tmp_path / "a.json", (tmp_path / "a.json").read_bytes()) == "json"
    assert sum(n_read) < 2_000_000 < (tmp_path / "a.json").stat().st_size


BEGINNINGS = [
    b"", b"PAR1", b"MMIDIDX\0\0", (20240520).to_bytes(4, "little") + b"\0" * 1_020, b"{", b"[", b'{"text": "',
    b'[{"text": "a"},', gzip.compress(b"a", mtime=0)[:12], b"\xfd7zXZ\0", b"BZh91AY&SY", b"\x28\xb5\x2f\xfd",
    zstandard.compress(b"a" * 99), b"\xef\xbb\xbf",
]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=60), st.booleans())
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, beginning, rest, skip):
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(beginning + rest)
    with contextlib.suppress(InputError):
        read(path, skip_bad_lines=skip)
    with contextlib.suppress(InputError):
        find_tokens(path, "uint16")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_damaged_record_names_the_column_in_its_line(end):
    with pytest.raises(InputError, match=r"not valid JSON \(Expecting ':' delimiter at column 14\)$"):
        parse_line(b'{"a": 1, "b" ' + end)
