"""Text from a checkpoint: the memory of keys and values changes nothing, options do what they say."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from support.strategies import models
from support.training_data import WORDS, small_config, small_data, small_model

from parambudget.cli.main import main
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.transformer import Transformer
from parambudget.training import loop
from parambudget.training.device import select_device
from parambudget.training.generate import SamplingParams, generate_text, load_checkpoint, sample_token

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = select_device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run that has learned enough to write words."""
    folder = tmp_path_factory.mktemp("run")
    config = small_config(steps=100, batch_size=8, learning_rate=2e-2, eval_every=100, save_every=100)
    loop.train(
        loop.TrainJob(small_model(vocab_size=310), config, small_data(folder), folder / "run"), device="cpu"
    )
    return folder / "run"


@pytest.fixture
def parambudget(monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parambudget", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return call


# The memory


def assert_the_same_with_memory(module: Transformer, tokens: torch.Tensor, lengths: tuple[int, ...]) -> None:
    with torch.no_grad():
        whole = module(tokens)
        with kv_cache(module, tokens.shape[1]) as hidden:
            parts = [module.logits(hidden(part)) for part in tokens.split(lengths, dim=1)]
        assert torch.equal(module(tokens), whole), "the module is not as it was"
    # float32 sums in another order: 24 bits, some hundred terms, relative to the largest logit.
    torch.testing.assert_close(
        torch.cat(parts, dim=1), whole, rtol=1e-4, atol=2e-5 * max(1.0, whole.abs().max().item())
    )


@pytest.mark.parametrize(
    "choices",
    [
        {"position": "rotary"},
        {"position": "rotary", "rotary_fraction": 0.25, "qk_norm": "per_head"},
        {"position": "learned", "norm": "layernorm", "qkv_bias": True},
        {"position": "none"},
        {"n_heads": 4, "n_kv_heads": 1},
        {"n_heads": 4, "n_kv_heads": 2, "qk_norm": "full"},
        {"block": "parallel"},
        {"block": "parallel_shared_norm"},
        {"norm_placement": "post"},
        {"norm_placement": "sandwich", "logit_softcap": 30.0, "attention_multiplier": 0.3},
        {"window": 3, "window_pattern": ("local", "global"), "rope_theta_local": 50.0},
        {"window": 1, "position": "alibi"},
        {"window": 6, "position": "alibi", "attention_sinks": True, "attention_softcap": 5.0},
        {"kv_lora_rank": 8, "qk_nope_head_dim": 8, "window": 4},
        {"n_experts": 4, "n_experts_per_token": 2, "rotary_pattern": ("none", "rotary")},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [(1,) * 16, (7, *(1,) * 9), (5, 4, 7)], ids=str)
def test_with_memory_the_logits_are_the_same(choices, lengths):
    module = Transformer(small_model(**choices), device="cpu")
    module.init_weights(torch.Generator().manual_seed(0))
    tokens = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(1))
    assert_the_same_with_memory(module, tokens, lengths)


@settings(max_examples=60, deadline=None)
@given(models())
def test_with_memory_any_model_gives_the_same_logits(model):
    module = Transformer(model, device="cpu")
    module.init_weights(torch.Generator().manual_seed(0))
    n_tokens = model.context_length
    tokens = torch.randint(model.vocab_size, (1, n_tokens), generator=torch.Generator().manual_seed(1))
    assert_the_same_with_memory(module, tokens, (n_tokens - 1, 1))


def test_the_module_is_as_it_was_after_an_error():
    module = Transformer(small_model(), device="cpu")
    before = [type(layer.attention) for layer in module.layers]
    with pytest.raises(RuntimeError, match="stop"), kv_cache(module, 4):
        raise RuntimeError("stop")
    assert [type(layer.attention) for layer in module.layers] == before


# Drawing


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([0.1, 3.0, 2.9])
    assert {sample_token(logits, SamplingParams(1, 0.0, None, 0), torch.Generator()) for _ in range(20)} == {
        1
    }


def test_top_k_draws_from_the_likeliest_only():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 2.0, 1.9, 1.0])
    found = [sample_token(logits, SamplingParams(1, 1.0, 2, 0), generator) for _ in range(200)]
    assert set(found) == {1, 2}


def test_tokens_come_as_often_as_the_model_says():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    found = [sample_token(logits, SamplingParams(1, 1.0, None, 0), generator) for _ in range(4_000)]
    # Four standard deviations of the binomial: 4 * sqrt(0.7 * 0.3 / 4000).
    assert found.count(0) / 4_000 == pytest.approx(0.7, abs=0.029)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_an_extreme_temperature_still_draws(temperature):
    logits = torch.tensor([1e4, -1e4, 0.0])
    assert sample_token(logits, SamplingParams(1, temperature, None, 0), torch.Generator()) in range(3)


# Samples


def test_a_trained_model_writes_the_words_it_learned(run):
    made = generate_text(load_checkpoint(run, CPU), "model", SamplingParams(10, 0.0, None, 0))
    assert made.n_tokens == 10
    first, second = made.text.split()[:2]
    assert {first.strip("."), second.strip(".")} <= set(WORDS), made.text


def test_the_same_seed_writes_the_same_and_another_does_not(run):
    loaded = load_checkpoint(run, CPU)
    texts = [generate_text(loaded, "the", SamplingParams(12, 1.0, None, seed)).text for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_what_is_heard_piece_by_piece_is_the_text(run):
    heard: list[str] = []
    made = generate_text(
        load_checkpoint(run, CPU), "the", SamplingParams(12, 1.0, None, 3), on_text=heard.append
    )
    assert heard[0] == "the"
    assert "".join(heard[1:]) == made.text
    assert len(heard) > 2


def test_no_token_without_a_text_is_drawn(run):
    """The model has 310 rows, the tokenizer fewer entries."""
    loaded = load_checkpoint(run, CPU)
    entries = loaded.tokenizer.entries
    assert entries < loaded.module.model.vocab_size
    with torch.no_grad():
        loaded.module.embed.weight[entries:] *= 1e4
    assert generate_text(loaded, "the", SamplingParams(10, 1.0, None, 0)).n_tokens > 0


def test_a_text_ends_where_a_document_does(run):
    loaded = load_checkpoint(run, CPU)
    with torch.no_grad():
        # Every hidden state becomes the row of the end-of-text id.
        for parameter in loaded.module.layers.parameters():
            parameter.zero_()
        loaded.module.embed.weight.zero_()
        loaded.module.embed.weight[:, 0] = 1
        loaded.module.embed.weight[loaded.tokenizer.end, 0] = 1e3
    made = generate_text(loaded, "the", SamplingParams(10, 0.0, None, 0))
    assert (made.ended, made.n_tokens, made.text) == ("end of text", 1, "")


# The command


def test_a_run_or_a_checkpoint_is_sampled(run, parambudget):
    code, out, err = parambudget("sample", str(run), "--prompt", "the model", "--max-tokens", "5")
    assert (code, err) == (0, "")
    assert out.startswith("the model")
    (saved,) = (run / "checkpoints").iterdir()
    assert parambudget("sample", str(saved), "--prompt", "the model", "--max-tokens", "5")[1] == out


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_is_sampled(run, parambudget, tmp_path):
    (saved,) = (run / "checkpoints").iterdir()
    shutil.copytree(saved, tmp_path / "two/checkpoints" / saved.name)
    shutil.copytree(saved, tmp_path / "two/checkpoints/step-200")
    code, out, err = parambudget("sample", str(tmp_path / "two"), "--max-tokens", "5")
    assert (code, out) == (0, parambudget("sample", str(saved), "--max-tokens", "5")[1])
    assert "step-200 is damaged: it holds step 100; an older one is used" in err


def test_json_says_what_was_drawn_and_why_it_ended(run, parambudget):
    code, out, err = parambudget("sample", str(run), "--prompt", "the", "--max-tokens", "99", "--json")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert made["ended"] == "context_length"
    assert made["n_prompt_tokens"] + made["n_tokens"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a checkpoint; give the folder of a run, its checkpoints/step-N"),
        (["run", "--prompt", "the model " * 20], "leaves no room for more; give a shorter one"),
        (["run", "--temperature", "-1"], "temperature"),
        (["run", "--temperature", "inf"], "--temperature is inf; use 0 or a finite number"),
        (["run", "--max-tokens", "0"], "'0' should be greater than or equal to 1"),
        (["run", "--device", "gpu"], "use auto, cpu, cuda or cuda:N"),
        (["empty"], "empty has no checkpoint yet; wait for its first save"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(run, parambudget, monkeypatch, arguments, message):
    monkeypatch.chdir(run.parent)
    (run.parent / "empty/checkpoints").mkdir(parents=True, exist_ok=True)
    code, out, err = parambudget("sample", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
