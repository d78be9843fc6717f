"""Files are read within bounds and written whole or not at all; results are tables anywhere."""

import builtins
import json
import os
from pathlib import Path
from typing import Any

import pytest

import parambudget as pb
from parambudget import _files
from parambudget._files import (
    LARGEST_CONFIG_BYTES,
    atomic_folder,
    atomic_write,
    json_text,
    read_json,
    remove_temporaries,
    sync_to_disk,
    write_json,
)
from parambudget._tabular import Tabular
from parambudget.errors import InputError, MissingExtra


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "PATH")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"dim": 8', "PATH is not valid JSON (Expecting ',' delimiter at line 1, column 10); is it "),
        ("", "PATH is not valid JSON (Expecting value at line 1, column 1); is it complete?"),
        ('{"dim": NaN}', "PATH is not usable JSON (NaN is not a JSON number); give a plain config object"),
        ('{"dim": Infinity}', "PATH is not usable JSON (Infinity is not a JSON number); give a plain config"),
        ("[" * 100_000, "PATH is not usable JSON ("),
        ("1" * 10_000, "PATH is not usable JSON ("),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_is_refused_in_one_line(tmp_path: Path, text: str, says: str):
    path = tmp_path / "config.json"
    path.write_text(text)
    assert refusal(path).startswith(says)


def test_a_missing_file_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "no.json") == (
        "cannot read PATH: No such file or directory; give an existing JSON file"
    )


def test_a_directory_is_refused(tmp_path: Path):
    assert refusal(tmp_path) == "PATH is a directory; give a JSON file"


def test_a_file_under_a_file_is_refused(tmp_path: Path):
    (tmp_path / "plain").touch()
    assert refusal(tmp_path / "plain" / "x.json").startswith("cannot read PATH: Not a directory")


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path):
    assert refusal(tmp_path / ("x" * 300)).startswith("cannot read PATH: File name too long")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00{")
    assert refusal(path) == "PATH is not UTF-8 text; give a JSON file"


def test_a_name_too_long_to_be_written_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"^cannot write .*x\.\.\.x+: File name too long; nothing was written"
    ):
        atomic_write(tmp_path / ("x" * 300), "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_beyond_5_mb_is_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_CONFIG_BYTES + 1)
    assert refusal(path) == "PATH is larger than 5,000,000 bytes, the most for a config file"


def test_what_is_written_reads_back(tmp_path: Path):
    path = tmp_path / "config.json"
    value = {"dim": 896, "rope_theta": 5e5, "name": "ü"}
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_text().endswith("}\n")
    assert json.loads(path.read_text())["dim"] == 896


def test_writing_leaves_no_temporary_behind(tmp_path: Path):
    atomic_write(tmp_path / "config.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path):
    (tmp_path / "usual").touch()
    atomic_write(tmp_path / "config.json", "new")
    assert (tmp_path / "config.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_longest_file_name_can_be_written(tmp_path: Path):
    path = tmp_path / ("x" * 255)
    atomic_write(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    def failing(_: int) -> None:
        raise error

    path = tmp_path / "config.json"
    path.write_text("old")
    monkeypatch.setattr(_files.os, "fsync", failing)
    with pytest.raises((InputError, KeyboardInterrupt)):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/x.json", "No such file or directory; nothing was written, choose a folder that exists"),
        ("plain/x.json", "Not a directory; nothing was written, choose a folder that exists"),
        (".", "it is a directory; give a file name"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path, name: str, why: str):
    (tmp_path / "plain").touch()
    path = tmp_path / name
    with pytest.raises(InputError) as caught:
        atomic_write(path, "new")
    assert str(caught.value).startswith(f"cannot write {path}: {why}")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["plain"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied; nothing was written"):
        atomic_write(tmp_path / "config.json", "new")


class Table(Tabular):
    def rows(self) -> list[dict[str, Any]]:
        return [{"a_name": "x<y", "n": 1234567, "share": 0.123456, "yes": True}]


def test_a_table_is_html_with_numbers_grouped_and_text_escaped():
    cells = ("x&lt;y", "1,234,567", "0.1235", "True")
    html = Table()._repr_html_()
    assert "<th>a name</th>" in html
    assert all(f">{cell}</td>" in html for cell in cells)


def test_a_table_is_aligned_text_at_a_prompt():
    assert repr(Table()) == "a name          n   share   yes\n   x<y  1,234,567  0.1235  True"


def test_a_table_is_a_frame_where_pandas_is_installed():
    assert Table().to_pandas()["n"].tolist() == [1234567]


def test_without_pandas_the_install_command_is_told(monkeypatch: pytest.MonkeyPatch):
    really_import = builtins.__import__

    def without_pandas(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return really_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        pb.count("gpt2").to_pandas()


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_json(link, 1)
    assert link.is_symlink()
    assert target.read_text() == "1\n"


def test_a_pipe_is_neither_read_nor_replaced(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refusal(pipe) == "PATH is a device or a pipe; give a JSON file"
    with pytest.raises(InputError, match="it is a device or a pipe; give a file name"):
        write_json(pipe, 1)
    assert pipe.is_fifo()


def test_bytes_are_written_as_they_are(tmp_path: Path):
    atomic_write(tmp_path / "file", b"\r\n\xff")
    assert (tmp_path / "file").read_bytes() == b"\r\n\xff"


def test_a_temporary_file_of_a_killed_process_is_in_nobodys_way(tmp_path: Path):
    (tmp_path / f".config.json.{os.getpid()}.tmp").touch()
    write_json(tmp_path / "config.json", 1)
    assert read_json(tmp_path / "config.json") == 1


def test_a_folder_appears_whole_with_all_that_is_in_it(tmp_path: Path):
    folder = tmp_path / "new"
    folder.mkdir()
    with atomic_folder(folder) as unfinished:
        (unfinished / "inner").mkdir()
        (unfinished / "inner" / "file").write_text("x")
        assert not list(folder.iterdir())
    assert (folder / "inner" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path):
    def write() -> None:
        with atomic_folder(tmp_path / "new") as unfinished:
            (unfinished / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_overwritten_only_on_request(tmp_path: Path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    with pytest.raises(InputError, match="already exists"), atomic_folder(tmp_path / "old"):
        pass
    with atomic_folder(tmp_path / "old", overwrite=True) as unfinished:
        (unfinished / "other").touch()
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["other"]


@pytest.mark.parametrize("name", ["file", "."])
def test_windows_syncs_files_it_may_write_and_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    flags = []
    really_open = os.open
    path = tmp_path / name
    if name != ".":
        path.touch()
    monkeypatch.setattr(_files.os, "open", lambda path, flag: flags.append(flag) or really_open(path, flag))
    monkeypatch.setattr(_files.os, "name", "nt")
    sync_to_disk(path)
    assert flags == ([os.O_RDWR] if name != "." else [])


def test_a_folder_that_its_file_system_cannot_sync_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refusing(_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(_files.os, "fsync", refusing)
    sync_to_disk(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        sync_to_disk(tmp_path / "file")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"dim": 64, "dim": 128}')
    assert "'dim' appears twice" in refusal(path)


def test_json_has_no_nan():
    value = {"a": float("nan"), "b": [1.5, -float("inf")], "c": (None, True)}
    assert json.loads(json_text(value)) == {"a": None, "b": [1.5, None], "c": [None, True]}


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    for name in (".a.json.0123abcd.tmp", ".b.0123abcd.tmp", "a.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.0123abcd.tmp").mkdir()
    remove_temporaries(tmp_path, "b")
    assert not (tmp_path / ".b.0123abcd.tmp").exists()
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.tmp"]
