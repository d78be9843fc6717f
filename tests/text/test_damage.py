"""Damage to prepared tokens, to an interrupted preparation and to the cache: named, or made again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from support.damage import damaged_bytes
from support.text_files import documents, write_jsonl
from support.training_data import write_text

from parambudget._documents import SEAL, sealed_fields
from parambudget._files import only_writer, sha256_of_file
from parambudget.errors import InputError
from parambudget.text import token_cache
from parambudget.text.corpus import read_corpus
from parambudget.text.dataset import data_for
from parambudget.text.prepare import PrepareRequest, prepare
from parambudget.text.token_cache import token_data


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A prepared folder, its source beside it."""
    folder = tmp_path_factory.mktemp("prepared")
    write_jsonl(folder / "a.jsonl", documents())
    prepare(request(folder), folder / "out")
    return folder


def request(folder: Path) -> PrepareRequest:
    return PrepareRequest(str(folder / "a.jsonl"), "bpe", 300, validation=0.1)


@pytest.fixture
def out(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole / "out", tmp_path / "out"))


def forge(folder: Path, **changes: object) -> None:
    """Change the manifest under a seal that matches."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    del fields[SEAL]
    path.write_text(json.dumps(sealed_fields(fields | changes)))


def train_shard(out: Path, **changes: object) -> list[dict]:
    return [json.loads((out / "manifest.json").read_text())["train"][0] | changes]


FORGED = {
    "object pointers": lambda out: {"dtype": "O"},  # noqa: ARG005
    "another type of ids": lambda out: {"dtype": "uint32"},  # noqa: ARG005
    "a file outside": lambda out: {"train": train_shard(out, file="../outside.bin")},
    "a file by its path": lambda out: {"train": train_shard(out, file="/dev/zero")},
    "another name": lambda out: {"train": train_shard(out, file="train-00007.bin")},
    "fewer entries": lambda out: {"entries": 10},  # noqa: ARG005
    "no entries": lambda out: {"entries": 0},  # noqa: ARG005
    "more tokens": lambda out: {"n_tokens": 1},  # noqa: ARG005
    "a negative count": lambda out: {"train": train_shard(out, n_bytes=-1)},
    "true for 1": lambda out: {"train": train_shard(out, n_documents=True)},
    "no shard": lambda out: {"train": []},  # noqa: ARG005
    "a null": lambda out: {"validation": None},  # noqa: ARG005
    "another key": lambda out: {"more": 1},  # noqa: ARG005
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_manifest_that_cannot_be_is_refused_in_one_line(out, kind):
    forge(out, **FORGED[kind](out))
    (out.parent / "outside.bin").write_bytes(bytes(64))
    with pytest.raises(InputError) as caught:
        data_for(out, 300)
    assert f"{out}" in str(caught.value)
    assert "is damaged: " in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["source", "text_sha256", "entries", "end_of_text", "exact_bytes", "seal"])
def test_a_changed_value_in_a_manifest_is_noticed(out, key):
    path = out / "manifest.json"
    fields = json.loads(path.read_text())
    value = fields[key]
    fields[key] = (
        not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value + "0"
    )
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="content does not match its seal; prepare the data again"):
        data_for(out, 300)


def test_ids_beyond_the_vocabulary_are_refused(out):
    """Under a hash that matches: whoever wrote them."""
    ids = np.fromfile(out / "train-00000.bin", np.uint16)
    ids[5] = 60_000
    ids.tofile(out / "train-00000.bin")
    forge(out, train=train_shard(out, sha256=sha256_of_file(out / "train-00000.bin")))
    with pytest.raises(InputError, match=r"train-00000.bin has an id of 60,000, but the tokenizer has 300"):
        data_for(out, 300)


@pytest.mark.parametrize("place", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["train-00000.bin", "tokenizer.json"])
def test_only_files_are_read(out, name, place):
    (out / name).unlink()
    place(out / name)
    with pytest.raises(InputError, match=f"is damaged: {name} cannot be read"):
        data_for(out, 300)


# An interrupted preparation


@pytest.fixture
def half(whole, tmp_path, monkeypatch) -> Path:
    """A preparation that was interrupted after its parts were done."""
    from parambudget.text import prepare as preparing

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(request(whole), tmp_path / "out")
    assert (tmp_path / "out/.unfinished/00000.json").is_file()
    return tmp_path / "out"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


WORK_DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bit of the ids": ("train-00000.bin", flip),
    "a bit of the held-out ids": ("validation-00000.bin", flip),
    "ids gone": ("train-00000.bin", Path.unlink),
    "a pipe": ("train-00000.bin", lambda path: (path.unlink(), os.mkfifo(path))),
    "a bit of the result": ("00000.json", flip),
    "another result": ("00000.json", lambda path: path.write_text("[]")),
    "a bit of the tokenizer": ("tokenizer.json", flip),
    "half a tokenizer": ("tokenizer.json", lambda path: path.write_bytes(path.read_bytes()[:99])),
    "no tokenizer": ("tokenizer.json", Path.unlink),
}


@pytest.mark.parametrize("kind", WORK_DAMAGE)
def test_a_damaged_part_of_a_preparation_is_named_and_made_again(whole, half, kind):
    name, damage = WORK_DAMAGE[kind]
    damage(half / ".unfinished" / name)
    notices: list[str] = []
    prepare(request(whole), half, on_notice=notices.append)
    assert contents(half) == contents(whole / "out")
    (notice,) = notices
    assert name in notice
    assert notice.endswith(("this part is made again", "it is trained again"))


def test_a_preparation_that_was_interrupted_while_files_were_named_goes_on(whole, half):
    (half / ".unfinished/train-00000.bin").rename(half / "train-00000.bin")
    (half / ".manifest.json.0123abcd.tmp").write_text("{")
    notices: list[str] = []
    prepare(request(whole), half, on_notice=notices.append)
    assert (contents(half), notices) == (contents(whole / "out"), [])
    flip(half / "train-00000.bin")
    with pytest.raises(InputError, match=r"train-00000.bin is not what was written"):
        prepare(request(whole), half)


@pytest.mark.parametrize("plan", ["[]", "null", "{", '{"plan": {}}'])
def test_a_damaged_plan_says_what_to_remove(whole, half, plan):
    (half / ".unfinished/plan.json").write_text(plan)
    with pytest.raises(InputError, match=r"plan.json .*; remove .*/out/.unfinished and run the same command"):
        prepare(request(whole), half)


def test_a_link_that_leads_nowhere_is_refused_as_a_place(whole, tmp_path):
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(InputError, match="link is a link to gone, which does not exist"):
        prepare(request(whole), tmp_path / "link")


# The cache


@pytest.fixture
def cache(tmp_path) -> Path:
    """A cache with the tokens of one text."""
    token_data(read_corpus(write_text(tmp_path / "text")), 300, cache=tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "facts", ["[]", "null", "{}", "0", "", '{"sha256": {}}', '{"sha256": {"train.bin": 1}, "dtype": "O"}']
)
def test_facts_that_are_none_are_made_again(cache, facts):
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    before = (folder / "facts.json").read_text()
    (folder / "facts.json").write_text(facts)
    token_data(read_corpus(cache / "text"), 300, cache=cache)
    assert (folder / "facts.json").read_text() == before


def test_what_a_killed_process_left_in_the_cache_is_removed(cache):
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    shutil.rmtree(folder)
    left = cache / f"tokens/.{folder.name}.0123abcd.tmp"
    left.mkdir()
    (left / "train.bin").write_bytes(b"half")
    token_data(read_corpus(cache / "text"), 300, cache=cache)
    assert [path.name for path in (cache / "tokens").iterdir()] == [folder.name]


# One writer

HOLD = """
import sys
from pathlib import Path
from parambudget._files import only_writer
with only_writer(Path(sys.argv[1]), "busy"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_a_killed_one_keeps_nobody_out(whole, half):
    command = [sys.executable, "-c", HOLD, str(half / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another process is preparing data in "):
            prepare(request(whole), half)
        other.kill()
    prepare(request(whole), half)
    assert contents(half) == contents(whole / "out")


def test_a_lock_that_its_last_owner_removed_is_taken_again(tmp_path, monkeypatch):
    acquire, files = FileLock.acquire, []

    def acquire_what_was_removed(lock, **options):
        acquired = acquire(lock, **options)
        files.append(lock.lock_file)
        if len(files) == 1:
            Path(lock.lock_file).unlink()
        return acquired

    monkeypatch.setattr(FileLock, "acquire", acquire_what_was_removed)
    with only_writer(tmp_path / ".lock", "busy"):
        assert len(files) == 2
        with pytest.raises(InputError, match="busy"), only_writer(tmp_path / ".lock", "busy"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_the_same_tokens_are_written_by_one_process(cache, monkeypatch):
    monkeypatch.setattr(token_cache, "WAIT_SECONDS", 0.1)
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    shutil.rmtree(folder)
    text, lock = read_corpus(cache / "text"), folder.with_name(f".{folder.name}.lock")
    with (
        only_writer(lock, "busy"),
        pytest.raises(InputError, match="another process is writing the tokens of "),
    ):
        token_data(text, 300, cache=cache)
    token_data(text, 300, cache=cache)


# Anything


@settings(max_examples=500)
@given(draw=st.data())
def test_any_manifest_is_read_or_refused_in_one_line(whole, draw):
    path = whole / "out/manifest.json"
    before = path.read_bytes()
    error = ""
    try:
        path.write_bytes(draw.draw(damaged_bytes(before)))
        data_for(whole / "out", 300)
    except InputError as refusal:
        error = str(refusal)
    finally:
        path.write_bytes(before)
    assert len(error) < 500
    assert error.isprintable()
