"""The page finds the runs of the folders that it was given, and reads nothing else."""

import os

from parambudget.web.run_folders import RunFolders


def names(folders):
    return sorted(entry.name for entry in folders.read())


def test_runs_are_found_in_a_folder_and_below_it(tmp_path, tiny_run):
    for name in ("a", "b/one", "b/two", "b/c/d/too-deep"):
        (tmp_path / name).mkdir(parents=True)
        tiny_run(tmp_path / name, 3)
    found = RunFolders([tmp_path, tmp_path / "a"])
    here = tmp_path.name
    assert names(found) == [f"{here}/a", f"{here}/b/one", f"{here}/b/two"]


def test_runs_of_equal_names_are_told_apart(tmp_path, tiny_run):
    for name in ("mine", "yours"):
        (tmp_path / name / "runs").mkdir(parents=True)
        tiny_run(tmp_path / name / "runs" / "a", 3)
    assert names(RunFolders([tmp_path / "mine" / "runs", tmp_path / "yours" / "runs"])) == [
        "runs/a", "runs/a (2)",
    ]  # fmt: skip


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, tiny_run):
    tiny_run(tmp_path / "secret", 3)
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "link").symlink_to(tmp_path / "secret")
    assert names(RunFolders([tmp_path / "shown"])) == []


def test_a_metrics_file_that_is_a_link_out_is_named_and_not_read(tmp_path, tiny_run):
    tiny_run(tmp_path / "secret", 3)
    tiny_run(tmp_path / "shown", 3)
    (tmp_path / "shown" / "metrics.jsonl").unlink()
    (tmp_path / "shown" / "metrics.jsonl").symlink_to(tmp_path / "secret" / "metrics.jsonl")
    (entry,) = RunFolders([tmp_path / "shown"]).read()
    assert (entry.run, "link that leads out" in entry.problem) == (None, True)


def test_a_run_is_read_again_only_when_it_has_grown(tmp_path, tiny_run):
    tiny_run(tmp_path / "run", 3, cut=b'{"step": 4')
    folders = RunFolders([tmp_path])
    (first,), (again,) = folders.read(), folders.read()
    assert len(first.run.steps) == 3
    assert again is first
    tiny_run(tmp_path / "run", 4)
    assert len(folders.read()[0].run.steps) == 4


def test_a_damaged_run_does_not_hide_the_others(tmp_path, tiny_run):
    tiny_run(tmp_path / "good", 3)
    tiny_run(tmp_path / "bad", 3)
    (tmp_path / "bad" / "config.json").write_text("{")
    entries = {entry.name.rpartition("/")[2]: entry for entry in RunFolders([tmp_path]).read()}
    assert entries["good"].run is not None
    assert "config.json" in entries["bad"].problem
    (tmp_path / "bad" / "metrics.jsonl").unlink()
    assert names(RunFolders([tmp_path])) == [f"{tmp_path.name}/good"]


def test_of_too_many_runs_the_oldest_are_left_out_and_counted(tmp_path, tiny_run, monkeypatch):
    monkeypatch.setattr("parambudget.web.run_folders.MOST_RUNS", 2)
    for age, name in enumerate(("c", "a", "b")):  # c is the newest
        tiny_run(tmp_path / name, 3)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (1e9 - age, 1e9 - age))
    folders = RunFolders([tmp_path])
    assert [entry.name.rpartition("/")[2] for entry in folders.read()] == ["c", "a"]
    assert folders.left_out == 1
