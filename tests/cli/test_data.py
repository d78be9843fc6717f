"""`parambudget data prepare` as a person meets it: interrupted, damaged, and asked for what cannot be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.outcomes import without_status
from support.text_files import COMMAND, documents, write_files, write_jsonl, write_parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from parambudget._documents import sealed_fields
from parambudget.cli.main import main
from parambudget.errors import InputError
from parambudget.text.dataset import data_for
from parambudget.text.tokenizer import train_bpe
from parambudget.training.device import select_device
from parambudget.training.generate import load_checkpoint
from parambudget.units import format_count

PREPARE = ["data", "prepare"]
TOKENIZER = ["--tokenizer", "tokenizer.json"]
MODEL = ["--dim", "32", "--n-heads", "2", "--n-layers", "1", "--context-length", "16", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def parambudget(here, monkeypatch, capsys):  # noqa: ARG001 - runs there
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parambudget", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a small tokenizer, a source and the same prepared."""
    folder = tmp_path_factory.mktemp("made")
    train_bpe(documents(), 300).save(str(folder / "tokenizer.json"))
    write_jsonl(folder / "a.jsonl", documents())
    arguments = [*PREPARE, "a.jsonl", "--tokenizer", "tokenizer.json", "-o", "out", "--validation", "0.1"]
    subprocess.run([*COMMAND, *arguments], cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def copied(made, here) -> Path:
    """A copy of them that a test may damage."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Whole runs


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A source of several parts, and its shards from an uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("large")
    write_jsonl(folder / "a.jsonl", documents(15_000))
    train_bpe(documents(), 300).save(str(folder / "tokenizer.json"))
    subprocess.run([*large_command("whole", 1)], cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


def large_command(out: str, n_workers: int) -> list[str]:
    settings = ["--tokenizer", "tokenizer.json", "-o", out, "--workers", str(n_workers)]
    return [*COMMAND, *PREPARE, "a.jsonl", *settings]


def test_several_processes_write_the_same_files_as_one(large):
    ran = subprocess.run(large_command("both", 2), cwd=large, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "15,000 documents" in ran.stdout
    assert contents(large / "both") == contents(large / "whole")
    assert sum(name.startswith("train-") for name in contents(large / "both")) == 8


def test_a_broken_line_ends_all_processes_with_one_line(large):
    lines = (large / "a.jsonl").read_text().splitlines(keepends=True)
    (large / "broken.jsonl").write_text("".join([*lines[:2_000], "{\n", *lines[2_000:]]))
    command = ["broken.jsonl" if word == "a.jsonl" else word for word in large_command("broken", 2)]
    ran = subprocess.run(command, cwd=large, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert "broken.jsonl, line 2001: not valid JSON" in ran.stderr


def interrupted(folder, out, kill):
    """A preparation that a signal met after its first part; again where it ended before the signal came."""
    for _ in range(5):
        process = subprocess.Popen(
            large_command(out.name, 2), cwd=folder, stdout=-1, stderr=-1, start_new_session=True
        )
        while not list(out.glob(".unfinished/0*.json")) and process.poll() is None:
            time.sleep(0.005)
        if process.poll() is None:
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            # To the whole group, as a terminal does.
            send = os.killpg if kill == signal.SIGINT else os.kill
            send(process.pid, kill)
        said = process.communicate(timeout=60)[1]
        if process.returncode:
            return process, workers, said
        shutil.rmtree(out)
    raise AssertionError("five preparations ended before they were interrupted")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_an_interrupted_preparation_is_not_taken_for_whole_and_goes_on(large, kill):
    out = large / f"interrupted-{kill.name}"
    process, workers, said = interrupted(large, out, kill)
    assert process.returncode == {signal.SIGINT: 130}.get(kill, -kill)
    if kill == signal.SIGINT:
        assert said == b"parambudget: interrupted; run the same command again to continue\n"
    assert not (out / "manifest.json").exists()
    with pytest.raises(
        InputError, match="only partly prepared; run the same `parambudget data prepare` again"
    ):
        data_for(out, 300)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "a worker outlived its parent"
    done = {path.name: path.stat().st_mtime_ns for path in out.glob(".unfinished/train-0*.bin")}
    kept = {path.name.replace(".json", ".bin") for path in out.glob(".unfinished/0*.json")}
    subprocess.run(large_command(out.name, 2), cwd=large, check=True, capture_output=True, timeout=120)
    assert contents(out) == contents(large / "whole")
    for name, written in done.items():
        if name.removeprefix("train-") in kept:
            assert (out / name).stat().st_mtime_ns == written, f"{name} was made again"


def test_what_is_there_already_is_not_made_again(copied, parambudget):
    before = {path.name: path.stat().st_mtime_ns for path in (copied / "out").iterdir()}
    settings = ["--tokenizer", "tokenizer.json", "-o", "out", "--validation", "0.1"]
    code, out, err = parambudget(*PREPARE, "a.jsonl", *settings, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((copied / "out/manifest.json").read_text())
    assert {path.name: path.stat().st_mtime_ns for path in (copied / "out").iterdir()} == before


def test_the_end_says_what_there_is_and_how_to_train_on_it(copied, parambudget):  # noqa: ARG001
    code, out, err = parambudget(*PREPARE, "a.jsonl", "--tokenizer", "tokenizer.json", "-o", "new")
    assert (code, err) == (0, "")
    assert "60 documents" in out
    assert "300 entries" in out
    assert "parambudget train MODEL --vocab-size 300 --data new" in out
    arguments = ["--vocab-size", "300", "--data", "new", "--steps", "1", "--batch_size", "2"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    code, out, err = parambudget("train", *MODEL, *arguments, "-o", "run")
    torch.set_num_threads(threads)
    assert (code, err) == (0, "")
    assert "a.jsonl: 60 documents" in out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["data", "prepare"], "openwebtext, fineweb-edu or hf:OWNER/NAME/SUBSET"),
        (["runs", "show"], "for one run, DIR/loss.png"),
        (["sample"], "0 always takes the most likely token"),
        (["train"], "Python's standard library"),
    ],
)
def test_help_says_what_a_command_takes_and_defaults_to(parambudget, monkeypatch, command, said):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = parambudget(*command, "--help-all")
    assert (code, err) == (0, "")
    assert said in " ".join(out.split())


# Damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-00000.bin", b"", r"train-00000.bin has 0 bytes where"),
        ("validation.bin", None, "validation.bin cannot be read (No such file or directory)"),
        ("train-00000.bin", "flip", "train-00000.bin is not what was written (another SHA-256)"),
        ("tokenizer.json", b"{}", "tokenizer.json is not what was written"),
        ("manifest.json", b"{", "manifest.json is not valid JSON"),
        ("manifest.json", b"[]", "manifest.json is not a manifest"),
        ("manifest.json", b'{"format": 7}', "manifest.json has another format"),
    ],
)
def test_a_damaged_file_is_named(copied, parambudget, name, damage, message):
    path = copied / "out" / name
    if damage is None:
        path.unlink()
    elif damage == "flip":
        held = path.read_bytes()
        path.write_bytes(bytes([held[0] ^ 1]) + held[1:])
    else:
        path.write_bytes(damage)
    code, out, err = parambudget("train", *MODEL, "--vocab-size", "300", "--data", "out")
    assert (code, without_status(out), err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_vocabulary_below_the_tokenizers_entries_is_refused(copied, parambudget):  # noqa: ARG001
    code, out, err = parambudget("train", *MODEL, "--vocab-size", "299", "--data", "out")
    assert (code, without_status(out)) == (2, "")
    assert "a tokenizer with 300 entries, more than vocab_size=299; use --vocab-size 300" in err


def train(parambudget, *arguments: str) -> tuple[int, str, str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return parambudget("train", *MODEL, "--steps", "1", "--batch_size", "2", "-o", "run", *arguments)
    finally:
        torch.set_num_threads(threads)


def test_json_lines_are_trained_on_as_documents_whatever_their_name(copied, parambudget):
    (copied / "a.jsonl").rename(copied / "corpus.json")
    code, out, err = train(parambudget, "--vocab-size", "300", "--data", "corpus.json")
    assert (code, err) == (0, "")
    assert "corpus.json: 60 documents" in out
    ids = data_for(copied / "corpus.json", 300).train[:]
    run = json.loads((copied / "run/config.json").read_text())
    braces = Tokenizer.from_file(str(copied / "run/checkpoints/step-1/tokenizer.json")).encode("{").ids
    assert not np.isin(ids, braces).any()
    assert run["provenance"]["end_of_text"] == "<|endoftext|>"


def test_a_vocabulary_that_the_text_does_not_fill_is_said_with_its_cost(copied, parambudget):
    code, out, err = train(parambudget, "--vocab-size", "50257", "--data", "a.jsonl")
    assert (code, err) == (0, "")
    entries = json.loads((copied / "run/config.json").read_text())["provenance"]["tokenizer_entries"]
    unused = 50257 - entries
    assert (
        f"The text supports only {entries} tokens; {unused:,} vocabulary rows ({format_count(32 * unused)} "
        f"parameters) stay unused. Use --vocab-size {entries}."
    ) in " ".join(out.split())


def test_what_a_run_read_and_how_stands_in_its_folder(copied, parambudget):
    """Tokens without a header: the run alone is enough to go on with it, but not to write text."""
    np.random.default_rng(0).integers(0, 300, 4_000).astype("<u2").tofile(copied / "ids")
    code, out, err = train(parambudget, "--vocab-size", "300", "--data", "ids", "--token-dtype", "uint16")
    assert (code, err) == (
        0, "parambudget: no file of ids is for validation: the end of ids is held out\n",
    )  # fmt: skip
    assert "Without a tokenizer bits per byte are left out." in out
    assert "bits/byte" not in out
    code, out, err = parambudget("train", "--resume", "-o", "run", "--steps", "2", "--device", "cpu")
    assert code == 0, err
    code, out, err = parambudget("sample", "run", "--device", "cpu")
    assert (code, without_status(out)) == (2, "")
    assert "was trained on tokens without their tokenizer" in err
    assert parambudget("runs", "show", "run")[0] == 0


def test_tokens_fewer_than_the_context_are_refused(copied, parambudget):  # noqa: ARG001
    code, out, err = parambudget(
        "train", *MODEL, "--vocab-size", "300", "--context-length", "100_000", "--data", "out"
    )
    assert (code, without_status(out)) == (2, "")
    assert "fewer than one window of 100001" in err


def test_a_source_that_was_repaired_is_prepared_by_the_same_command(here, parambudget):
    for n, tokenizer in enumerate((["bpe", "--vocab-size", "300"], ["tokenizer.json"])):
        train_bpe(documents(), 300).save("tokenizer.json")
        write_jsonl(here / "a.jsonl", documents())
        whole = (here / "a.jsonl").read_text()
        (here / "a.jsonl").write_text(whole + "not json")
        command = [*PREPARE, "a.jsonl", "-o", f"new/out-{n}", "--workers", "1", "--tokenizer", *tokenizer]
        code, out, err = parambudget(*command)
        assert (code, without_status(out)) == (2, "")
        assert "not valid JSON" in err
        if n == 0:  # no tokens were made: nothing stays
            assert not (here / "new").exists()
        (here / "a.jsonl").write_text(whole)
        assert parambudget(*command)[0] == 0
        assert (here / f"new/out-{n}/manifest.json").is_file()


# What is read, and what is not


def test_every_file_of_a_folder_is_read_or_named(copied, parambudget):
    folder = write_files(copied / "texts", documents(3, seed=5))
    shutil.copy(copied / "a.jsonl", folder / "A.JSONL")
    (folder / "README.md").write_text("# About the data")
    (folder / "notes.bin").write_bytes(b"\0\1")
    (folder / "other.jsonl").write_text('{"body": "x"}\n')
    code, out, err = parambudget(*PREPARE, "texts", *TOKENIZER, "-o", "new", "--workers", "1")
    assert (code, err) == (0, "")
    assert "63 documents" in out
    assert "plain text (3 files), JSON lines (1 file)" in out
    assert "README.md" in out
    left_out = json.loads((copied / "new/manifest.json").read_text())["left_out"]
    assert {each["reason"]: each["examples"] for each in left_out} == {
        "about the data": ["README.md"],
        "not text, or tokens of a type that is not given": ["notes.bin"],
        "without the field 'text'": ["other.jsonl"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jsonl", "--separator", "##"], "--separator had no effect: the source has no plain text"),
        (["b.txt", "--separator", "##"], "--separator '##' is nowhere in the text: every file is one"),
        (["b.txt", "--field", "body"], "--field body had no effect: the source is plain text"),
        (["b.txt", "--skip-bad-lines"], "--skip-bad-lines had no effect: the source has no JSON lines"),
    ],
)
def test_an_option_without_effect_is_told(copied, parambudget, arguments, message):
    (copied / "b.txt").write_text("\n".join(documents(9)))
    code, out, err = parambudget(*PREPARE, *arguments, *TOKENIZER, "-o", "new", "--workers", "1")
    assert (code, err) == (0, "")
    assert message in out


def test_bad_lines_are_skipped_and_counted_if_that_is_asked_for(copied, parambudget):
    lines = '{"text": 5}\n{"text": null}\n[1]\n{"text": ""}\n{"body": "x"}\n{bad\n'
    (copied / "bad.jsonl").write_text((copied / "a.jsonl").read_text() + lines)
    command = [*PREPARE, "bad.jsonl", *TOKENIZER, "-o", "new", "--workers", "1"]
    code, out, err = parambudget(*command)
    assert (code, without_status(out)) == (2, "")
    assert "bad.jsonl, line 61: field 'text' is not a string; repair the line, or skip such" in err
    code, out, err = parambudget(*command, "--skip-bad-lines")  # goes on with what is there
    assert (code, err) == (0, "")
    assert "2 with null or empty text, 4 damaged or without text" in out
    assert "60 documents" in out


def test_an_end_of_text_is_said_with_who_named_it(copied, parambudget):
    (copied / "chat").mkdir()
    tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.save(str(copied / "chat/tokenizer.json"))
    (copied / "chat/tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    code, out, err = parambudget(*PREPARE, "a.jsonl", "--tokenizer", "chat", "-o", "new")
    assert (code, err) == (0, "")
    assert "<|im_end|>, eos_token of tokenizer_config.json" in out
    manifest = json.loads((copied / "new/manifest.json").read_text())
    named = manifest["end_of_text"], manifest["end_of_text_reason"]
    assert named == ("<|im_end|>", "eos_token of tokenizer_config.json")
    assert train(parambudget, "--vocab-size", "301", "--data", "new")[0] == 0
    assert load_checkpoint(Path("run"), select_device("cpu")).tokenizer.end_text == "<|im_end|>"


def test_a_tokenizer_that_loses_text_is_said_with_how_much(copied, parambudget):
    """A BPE without the alphabet of bytes has no entry for what it has not seen."""
    lossy = Tokenizer(models.BPE())
    lossy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lossy.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["</s>"], show_progress=False)
    lossy.train_from_iterator(["the model of one or two layers"], trainer)
    lossy.save(str(copied / "lossy.json"))
    kept = sum(len(lossy.decode(lossy.encode(text).ids).encode()) for text in documents())
    total = sum(len(text.encode()) for text in documents())
    code, out, err = parambudget(*PREPARE, "a.jsonl", "--tokenizer", "lossy.json", "-o", "new")
    assert (code, err) == (0, "")
    lost = f"The tokenizer loses {100 * (1 - kept / total):.1f} % of the text's bytes."
    assert lost in out
    assert json.loads((copied / "new/manifest.json").read_text())["lost_bytes"] == total - kept
    code, out, err = train(parambudget, "--vocab-size", "300", "--data", "new")
    assert code == 0, err
    assert f"{lost} Bits per byte are left out." in out
    last = json.loads((copied / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["val_loss"] > 0, last["val_bits_per_byte"]) == (True, None)


# Wrong requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", *TOKENIZER], "no data at nowhere; give a file, a folder, hf:OWNER/NAME"),
        (["empty", *TOKENIZER], "no text in empty: 0 files"),
        (["empty.txt", *TOKENIZER], "empty.txt is empty"),
        (["blank.jsonl", *TOKENIZER], "no text in blank.jsonl to train on: every document is empty"),
        (["image.txt", *TOKENIZER], "image.txt is not text"),
        (["latin.txt", *TOKENIZER], "latin.txt is not UTF-8 text after byte 5,000"),
        (["broken.jsonl", *TOKENIZER], "broken.jsonl, line 3: not valid JSON"),
        (["list.jsonl", *TOKENIZER], "list.jsonl, line 2: not a JSON object"),
        (["number.jsonl", *TOKENIZER], "number.jsonl, line 2: field 'text' is not a string"),
        (
            ["a.jsonl", *TOKENIZER, "--field", "body"],
            "line 1: no field 'body', only 'id', 'text'; name it with",
        ),
        (["a.parquet", *TOKENIZER, "--field", "body"], "a.parquet has no column 'body', only id, text"),
        (["a.parquet", *TOKENIZER, "--field", "id"], "column 'id' of a.parquet is int64, not a string"),
        (["fake.parquet", *TOKENIZER], "fake.parquet is not a parquet file"),
        (["a.jsonl", "--tokenizer", "gpt2"], "no tokenizer at gpt2; give bpe (trained on the source)"),
        (["a.jsonl", "--tokenizer", "empty"], "empty has no tokenizer.json and not both of vocab.json"),
        (["a.jsonl", "--tokenizer", "a.jsonl"], "a.jsonl is not a tokenizer that can be read"),
        (["a.jsonl", "--tokenizer", "bpe"], "--tokenizer bpe needs --vocab-size"),
        (["a.jsonl", "--tokenizer", "bpe", "--vocab-size", "100"], "use at least 257"),
        (["a.jsonl", *TOKENIZER, "--vocab-size", "300"], "--vocab-size is for --tokenizer bpe"),
        (
            ["a.jsonl", *TOKENIZER, "--end-of-text", "<end>"],
            "tokenizer.json has no '<end>' to end documents with; name another",
        ),
        (["a.jsonl", *TOKENIZER, "-o", "texts"], "texts exists and is not empty; choose a new folder"),
        (["texts", *TOKENIZER, "-o", "texts"], "texts is inside the source texts; choose a folder outside"),
        (["a.jsonl", *TOKENIZER, "-o", "a.jsonl"], "a.jsonl exists and is not empty"),
        (
            ["texts", *TOKENIZER, "-o", "texts/new"],
            "texts/new is inside the source texts; choose a folder outside",
        ),
        (["a.jsonl", "--tokenizer", "words.json"], "the tokenizer cannot encode the text (WordLevel error"),
        (["a.jsonl", *TOKENIZER, "-o", "out"], "out contains data that was prepared from another source"),
        (
            ["a.jsonl", *TOKENIZER, "-o", "half"],
            "unfinished preparation that differs in tokenizer, field or separator,",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(copied, parambudget, arguments, message):
    (copied / "empty").mkdir()
    (copied / "empty.txt").write_text("")
    (copied / "blank.jsonl").write_text('{"text": ""}\n\n')
    (copied / "image.txt").write_bytes(b"\x89PNG\x00")
    (copied / "latin.txt").write_bytes(b"a" * 4_999 + b"\n" + b"\xe9tude\n")
    (copied / "broken.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": \n')
    (copied / "list.jsonl").write_text('{"text": "a"}\n["a"]\n')
    (copied / "number.jsonl").write_text('{"text": "a"}\n{"text": 5}\n')
    (copied / "fake.parquet").write_bytes(b"PAR1no")
    write_parquet(copied / "a.parquet", documents(3))
    write_files(copied / "texts", documents(3))
    Tokenizer(models.WordLevel({"</s>": 0}, unk_token="?")).save(str(copied / "words.json"))
    (copied / "half/.unfinished").mkdir(parents=True)
    plan = {"plan": {"source": "a.jsonl"}, "trained_tokenizer": None}
    (copied / "half/.unfinished/plan.json").write_text(json.dumps(sealed_fields(plan)))
    before = sorted(str(path) for path in copied.rglob("*"))
    code, out, err = parambudget(*PREPARE, *arguments, *([] if "-o" in arguments else ["-o", "new"]))
    assert (code, without_status(out), err.count("\n")) == (2, "", 1), err
    assert message in err
    left = {path for path in copied.rglob("*") if str(path) not in before}
    assert not [path for path in left if path.name == "manifest.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(copied, parambudget):
    (copied / "locked").mkdir(mode=0o500)
    code, out, err = parambudget(*PREPARE, "a.jsonl", *TOKENIZER, "-o", "locked/new")
    assert (code, without_status(out)) == (2, "")
    assert "cannot write locked/new: Permission denied" in err


def test_a_place_that_cannot_be_a_folder_is_one_line(copied, parambudget):  # noqa: ARG001
    code, out, err = parambudget(*PREPARE, "a.jsonl", *TOKENIZER, "-o", "a.jsonl/new")
    assert (code, without_status(out)) == (2, "")
    assert "cannot write a.jsonl/new: Not a directory" in err


def test_a_full_disk_leaves_what_is_done_and_says_so(copied):
    """No file may be larger than 8 KiB: the tokenizer's is."""
    limited = 'ulimit -f 8; exec "$@"'
    command = [*COMMAND, *PREPARE, "a.jsonl", *TOKENIZER, "-o", "full", "--validation", "0.1"]
    ran = subprocess.run(
        ["bash", "-c", limited, "bash", *command], cwd=copied, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "File too large" in ran.stderr
    subprocess.run(command, cwd=copied, check=True, capture_output=True, timeout=120)
    assert contents(copied / "full") == contents(copied / "out")
