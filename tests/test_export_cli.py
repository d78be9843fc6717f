"""`parambudget export`, and the folders it writes: whole or not there, and read by transformers and by us."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from of_each_class import OF_EACH_CLASS, random_module, theirs, written
from tokenizers import Tokenizer
from training_data import WORDS, small_config, small_model
from transformers import AutoTokenizer, GenerationConfig

from parambudget.build import export as exporting
from parambudget.build.module import Transformer
from parambudget.build.pretrained import load_pretrained
from parambudget.cli.main import main
from parambudget.train import checkpoint, loop
from parambudget.train.device import choose
from parambudget.train.sample import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = f"{' '.join(WORDS)}.\n  Été <b> 12,5 "


@pytest.fixture(scope="module")
def run(tmp_path_factory, data) -> Path:
    """A run of two checkpoints."""
    folder = tmp_path_factory.mktemp("run") / "run"
    loop.train(small_model(qk_norm="head"), small_config(), data, folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, run) -> Path:
    """The same as transformers' folder."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["parambudget", "export", "--weights", str(run), "-o", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return folder


@pytest.fixture
def parambudget(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parambudget", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return call


def trained(run: Path) -> Transformer:
    return load_checkpoint(run, choose("cpu")).module


# The config alone


def test_without_a_folder_the_config_is_all_that_is_printed(parambudget):
    code, out, err = parambudget("export", "gpt2", "--to", "hf")
    assert (code, err) == (0, "")
    assert json.loads(out)["model_type"] == "gpt2"


def test_a_folder_gets_the_file_and_a_line_says_what_it_is(parambudget, tmp_path):
    folder = tmp_path / "new" / "folder"
    code, out, _ = parambudget("export", "gpt2", "-o", folder)
    assert (code, out) == (0, f"wrote {folder / 'config.json'}: gpt2, 124,439,808 parameters\n")
    assert parambudget("count", folder / "config.json", "--expect", "124439808", "--tolerance", "0")[0] == 0


@pytest.mark.parametrize(
    ("tool", "file", "begins"),
    [
        ("litgpt", "model_config.yaml", 'name: "parambudget"\n'),
        ("megatron", "megatron_args.sh", "MODEL_ARGS=("),
    ],
)
def test_other_tools_get_their_files(parambudget, tmp_path, tool, file, begins):
    code, _, err = parambudget("export", "llama-3-8b", "--to", tool, "-o", tmp_path)
    assert code == 0
    assert (tmp_path / file).read_text().startswith(begins)
    assert ("pads the vocabulary" in err) == (tool == "megatron")


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(parambudget, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    code, out, err = parambudget("export", "gpt2", "-o", tmp_path)
    assert (code, out) == (2, "")
    told = f"{tmp_path / 'config.json'} is there already; choose another --out, or --force to replace it"
    assert err == f"parambudget: {told}\n"
    assert (tmp_path / "config.json").read_text() == "mine"
    assert parambudget("export", "gpt2", "-o", tmp_path, "--force")[0] == 0
    assert json.loads((tmp_path / "config.json").read_text())["n_layer"] == 12


def test_what_a_config_could_not_say_is_said_again(parambudget, tmp_path):
    scaled = {"model_type": "llama", "num_hidden_layers": 2, "rope_scaling": {"rope_type": "llama3"}}
    (tmp_path / "config.json").write_text(json.dumps(scaled))
    _, out, err = parambudget("export", tmp_path / "config.json")
    assert "built without rescaled rotary frequencies (llama3): a model with other logits" in err
    assert "rope_scaling" not in json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gpt2", "--to", "litgpt"], "litgpt 0.5.13 has no such model: its nearest has position='rotary'"),
        (["gpt2", "--to", "megatron", "--model-type", "gpt2"], "--model-type is for --to hf; leave it out"),
        (
            ["gpt2", "--to", "litgpt", "--weights", "run"],
            "--weights is for --to hf; leave it out with litgpt",
        ),
        (["--weights", "run"], "--weights writes a folder; say which with --out DIR"),
        (["--weights", "nowhere", "-o", "out"], "nowhere is no checkpoint; give a run's folder or its"),
        (["--weights", "a.safetensors", "-o", "out"], "a.safetensors and config.json must both be there"),
        (["llama-3-8b", "--qk-norm", "per_head"], "no class of transformers is this model: the nearest"),
    ],
)
def test_what_cannot_be_exported_is_one_line(parambudget, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = parambudget("export", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"parambudget: {told}")
    assert err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


# Weights and tokenizer


def test_a_run_s_last_checkpoint_has_the_same_logits_in_transformers(run, exported):
    tokens = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        off = (trained(run)(tokens) - theirs(exported)(tokens).logits).abs().max().item()
    assert off <= 1e-4


def test_its_tokenizer_gives_the_ids_that_it_was_trained_on(run, exported):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    own = Tokenizer.from_file(str(checkpoint.all_in(run / "checkpoints")[0] / "tokenizer.json"))
    assert tokenizer(TEXT).input_ids == own.encode(TEXT).ids
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT
    assert tokenizer.eos_token_id == own.token_to_id("<|endoftext|>")
    assert tokenizer.model_max_length == 16


def test_transformers_writes_what_we_write(run, exported, parambudget):
    _, out, _ = parambudget("sample", run, "--prompt", WORDS[0], "--temperature", 0, "--max-tokens", 8)
    _, from_theirs, _ = parambudget(
        "sample", exported, "--prompt", WORDS[0], "--temperature", 0, "--max-tokens", 8
    )
    tokenizer = AutoTokenizer.from_pretrained(exported)
    made = theirs(exported).generate(
        **tokenizer(WORDS[0], return_tensors="pt", return_token_type_ids=False),
        generation_config=GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0),
    )
    assert tokenizer.decode(made[0]) == out.rstrip("\n") == from_theirs.rstrip("\n")


def test_one_checkpoint_or_its_file_alone_will_do(run, exported, parambudget, tmp_path):
    last = checkpoint.all_in(run / "checkpoints")[0]
    for i, given in enumerate((last, last / "model.safetensors")):
        assert parambudget("export", "--weights", given, "-o", tmp_path / str(i))[0] == 0
        assert (tmp_path / str(i) / "model.safetensors").read_bytes() == (
            exported / "model.safetensors"
        ).read_bytes()


def test_a_model_beside_the_weights_must_be_theirs(run, parambudget, tmp_path):
    _, _, err = parambudget(
        "export", run / "config.json", "--dim", 64, "--weights", run, "-o", tmp_path / "x"
    )
    assert "is of another model: dim is 32 there and 64 here; leave the model out" in err
    assert parambudget("export", run / "config.json", "--weights", run, "-o", tmp_path / "x")[0] == 0


def test_a_folder_with_files_stays_as_it_is_unless_they_may_be_replaced(run, parambudget, tmp_path):
    (tmp_path / "mine").write_text("mine")
    code, _, err = parambudget("export", "--weights", run, "-o", tmp_path)
    assert code == 2
    assert err.startswith(f"parambudget: {tmp_path} holds files already; choose another folder with --out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert parambudget("export", "--weights", run, "-o", tmp_path, "--force")[0] == 0
    assert (tmp_path / "mine").read_text() == "mine"
    assert load_pretrained(tmp_path).model.dim == 32


def test_what_fails_half_way_leaves_nothing(run, parambudget, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "save_file", full)
    code, _, err = parambudget("export", "--weights", run, "-o", tmp_path / "hf")
    assert code == 2
    assert err.startswith(f"parambudget: cannot write {tmp_path / 'hf'}: No space left on device")
    assert not [*tmp_path.iterdir()]


def test_a_damaged_checkpoint_is_not_exported(run, parambudget, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = checkpoint.all_in(copy / "checkpoints")[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    code, _, err = parambudget("export", "--weights", copy, "-o", tmp_path / "hf")
    assert code == 2
    assert "is damaged: model.safetensors is not what was written" in err


def test_weights_of_a_function_that_no_class_has_are_not_written(parambudget, tmp_path, data):
    model = small_model(position="alibi", gated=False, norm="layernorm", qkv_bias=True, ffn_bias=True,
                        attention_out_bias=True)  # fmt: skip
    loop.train(model, small_config(steps=1, warmup_steps=0), data, tmp_path / "run", device="cpu")
    code, _, err = parambudget("export", "--weights", tmp_path / "run", "-o", tmp_path / "hf")
    assert code == 2
    assert "FalconForCausalLM has the same count, but computes position biases divided" in err
    assert "its weights are not written" in err


# Back again


def test_a_run_starts_from_a_hugging_face_folder(run, exported, data, tmp_path):
    told = []
    still = small_config(steps=1, warmup_steps=0, learning_rate=1e-9, final_learning_rate=1e-10)
    model = small_model(qk_norm="head")
    result = loop.train(
        model, still, data, tmp_path / "run", device="cpu", init=exported, on_notice=told.append
    )
    assert told == []
    before, after = trained(run).state_dict(), trained(tmp_path / "run").state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert result.finished
    assert len(json.loads((tmp_path / "run/config.json").read_text())["provenance"]["init_sha256"]) == 64


def test_the_command_line_takes_its_model_from_the_folder(exported, parambudget, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(f"{TEXT}\n" * 400)
    code, _, err = parambudget(
        "train", "--init", exported, "--data", text, "--steps", 1, "--batch-size", 2, "-o", tmp_path / "run"
    )
    assert code == 0, err
    assert "was trained with another tokenizer: its weights know other tokens" in err
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["qk_norm"] == "head"


def test_weights_of_another_model_are_no_start(data, tmp_path):
    other = written(tmp_path / "llama", random_module(OF_EACH_CLASS["llama"]), "llama")
    with pytest.raises(ValueError, match="is of another model: dim is 64 there and 32 here"):
        loop.train(small_model(), small_config(), data, tmp_path / "run", device="cpu", init=other)


def test_a_folder_without_a_tokenizer_cannot_write(tmp_path, parambudget):
    folder = written(tmp_path / "llama", random_module(OF_EACH_CLASS["llama"]), "llama")
    code, _, err = parambudget("sample", folder, "--prompt", "a")
    assert code == 2
    assert err.count("\n") == 1
    assert "tokenizer.json" in err
