"""Uploading an export to a hub on this machine: one commit, or one line that says why not."""

import json
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from support.fake_hub import TOKEN, FakeHub, fake_hub
from support.tiny_model import SMALL, built

from parambudget.cli.main import main
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.weights import save_pretrained
from parambudget.text.tokenizer import as_text_tokenizer, tokenizer_files, train_bpe
from parambudget.training.exports.hub import HubUpload


@pytest.fixture
def hub(monkeypatch):
    with fake_hub() as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        template = one.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its servers are not those of the hub
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield one
    assert one.unknown == []


@pytest.fixture
def export(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parambudget", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return call


def assert_refused(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def uploaded(hub: FakeHub, repo: str, folder: Path) -> bool:
    return hub.repos[repo] == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_uploaded_in_one_commit_to_a_new_private_repository(hub, export, tmp_path):
    code, out, err = export("gpt2", "-o", tmp_path / "mine", "--push", "ada/mine")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == f"uploaded to {hub.url}/ada/mine"
    assert hub.commits == [("ada/mine", ["README.md", "config.json"])]
    assert hub.private == {"ada/mine": True}
    assert uploaded(hub, "ada/mine", tmp_path / "mine")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's own client
def test_weights_are_uploaded_as_large_files_and_the_owner_is_the_token_s(hub, export, tmp_path):
    model = SMALL.replace(vocab_size=300)
    tokenizer = as_text_tokenizer(train_bpe(["the cat sat on the mat " * 40], 300), "own")
    files = tokenizer_files(tokenizer, model.context_length)
    save_pretrained(built(model), to_hf(model).document, tmp_path / "hf", files)
    wanted = ("--to", "gguf", "--dtype", "f16", "--weights", tmp_path / "hf")
    code, _, err = export(*wanted, "-o", tmp_path / "out", "--push", "mine")
    assert (code, err) == (0, "")
    assert hub.commits == [("ada/mine", ["README.md", "model-f16.gguf"])]
    assert uploaded(hub, "ada/mine", tmp_path / "out")


def test_other_files_of_the_folder_stay_here(hub, export, tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    code, out, _ = export("gpt2", "-o", tmp_path, "--push", "ada/mine", "--json")
    assert (code, json.loads(out)["url"]) == (0, f"{hub.url}/ada/mine")
    assert hub.commits == [("ada/mine", ["README.md", "config.json"])]


def test_without_a_token_nothing_is_written(hub, export, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert_refused(
        export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine"), "no token of the hub was found"
    )
    assert (list(tmp_path.iterdir()), hub.repos) == ([], {})


@pytest.mark.usefixtures("hub")
def test_a_token_that_the_hub_does_not_know_is_refused(export, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert_refused(export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine"), "does not know this token")
    assert list(tmp_path.iterdir()) == []


def test_a_repository_of_somebody_else_is_refused(hub, export, tmp_path):
    result = export("gpt2", "-o", tmp_path / "out", "--push", "bob/mine")
    assert_refused(result, "but not uploaded to bob/mine: this token may not write there")
    assert hub.commits == []


def test_a_repository_with_files_is_changed_with_force_only(hub, export, tmp_path):
    hub.repos["ada/mine"], hub.private["ada/mine"] = {"other.bin": b"1"}, False
    assert_refused(export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine"), "exists and has 1 file")
    assert not (tmp_path / "out").exists()
    assert export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine", "--force")[0] == 0
    assert sorted(hub.repos["ada/mine"]) == ["README.md", "config.json", "other.bin"]
    assert hub.private == {"ada/mine": False}


def test_a_card_that_a_person_wrote_on_the_hub_is_kept(hub, export, tmp_path):
    hub.repos["ada/mine"], hub.private["ada/mine"] = {"README.md": b"# Ours\n"}, True
    code, _, err = export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine", "--force")
    assert (code, "README.md of ada/mine is kept as it is" in err) == (0, True)
    assert hub.repos["ada/mine"]["README.md"] == b"# Ours\n"
    assert hub.commits == [("ada/mine", ["config.json"])]


def test_a_card_that_a_person_wrote_here_is_not_uploaded(hub, export, tmp_path):
    (tmp_path / "README.md").write_text("# Ours\n")
    code, _, err = export("gpt2", "-o", tmp_path, "--push", "ada/mine")
    assert (code, "README.md is kept as it is" in err) == (0, True)
    assert hub.commits == [("ada/mine", ["config.json"])]


def test_a_repository_that_changes_in_between_is_left_alone(hub, export, tmp_path, monkeypatch):
    hub.repos["ada/mine"], hub.private["ada/mine"] = {"other.bin": b"1"}, False
    upload = HubUpload.upload

    def change_first(self, folder, names):
        hub.sha = "1" * 40
        return upload(self, folder, names)

    monkeypatch.setattr(HubUpload, "upload", change_first)
    result = export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine", "--force")
    assert_refused(result, "not uploaded to ada/mine: the repository has changed since it was checked")
    assert (hub.commits, hub.repos["ada/mine"]) == ([], {"other.bin": b"1"})


def test_what_exists_here_is_refused_before_the_hub_is_asked(hub, export, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    push = ("-o", tmp_path, "--push", "ada/mine")
    assert_refused(export("gpt2", *push), "config.json already exists")
    assert_refused(export("--weights", tmp_path, *push), f"{tmp_path} already exists; choose another folder")
    assert_refused(
        export("--weights", tmp_path, "--to", "litgpt", *push), "--weights writes for transformers"
    )
    assert hub.calls == []


def test_only_errors_of_the_network_ask_for_one(hub, export, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(HfApi, "create_commit", fail)
    result = export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine")
    assert_refused(result, "not uploaded to ada/mine: [Errno 13] Permission denied; try again\n")
    assert hub.commits == []


@pytest.mark.parametrize("place", ["/preupload/", "/commit/"])
def test_what_fails_on_the_way_leaves_nothing_half_uploaded(hub, export, tmp_path, place, monkeypatch):
    hub.fails_at = place
    monkeypatch.setattr("time.sleep", lambda _: None)  # between its retries
    result = export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine")
    assert_refused(result, "was written, but not uploaded to ada/mine: the hub answers 500")
    assert (hub.commits, hub.repos) == ([], {"ada/mine": {}})


@pytest.mark.usefixtures("hub")
def test_without_a_network_nothing_is_written(export, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert_refused(export("gpt2", "-o", tmp_path / "out", "--push", "ada/mine"), "is there a network?")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("hub")
def test_an_upload_needs_a_folder_and_a_name_that_can_be(export, tmp_path):
    assert_refused(export("gpt2", "--push", "ada/mine"), "--push uploads a folder; name it with --out DIR")
    assert_refused(export("gpt2", "-o", tmp_path / "out", "--push", "a/b/c"), "give OWNER/NAME")
