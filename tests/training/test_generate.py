"""Text from a checkpoint: the memory of keys and values changes nothing, options do what they say."""

import inspect
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from support.strategies import models
from support.training_data import WORDS, small_config, small_data, small_model

import parambudget as pb
from parambudget.cli.main import main
from parambudget.cli.sample import sample
from parambudget.errors import InputError
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.transformer import Transformer
from parambudget.training import loop
from parambudget.training.device import select_device
from parambudget.training.generate import (
    UNSAID,
    SamplingParams,
    context_start,
    generate_text,
    generate_texts,
    generate_tokens,
    load_checkpoint,
    params_without_effect,
    sample_token,
)

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


GREEDY = "the most likely token is always taken"


@pytest.mark.parametrize(
    ("asked", "num_samples", "says"),
    [
        (
            {"temperature": 0.0, "top_p": 0.9}, None,
            [f"`top_p=0.9` has no effect: with `temperature=0` {GREEDY}"],
        ),
        (
            {"temperature": 0.0, "top_k": 5, "seed": 3}, 1,
            [f"`top_k=5` and `seed=3` have no effect: with `temperature=0` {GREEDY}"],
        ),
        (
            {"temperature": 0.5, "top_k": 1}, 3,
            [
                f"`temperature=0.5` has no effect: with `top_k=1` {GREEDY}",
                f"`num_samples=3` has no effect: {GREEDY}, so all texts of a prompt are the same",
            ],
        ),
        ({"temperature": 0.5, "top_k": 2, "top_p": 0.9, "seed": 3}, 3, []),
        ({"temperature": 0.0}, None, []),
    ],
)  # fmt: skip
def test_what_changes_nothing_beside_a_greedy_choice_is_named(asked, num_samples, says):
    params = SamplingParams(**{"max_tokens": 1, "temperature": 0.8, "top_k": None, "seed": 0} | asked)
    assert list(params_without_effect(params, num_samples)) == says


def test_what_is_not_given_has_the_default_of_the_library_and_of_the_command():
    for verb in (pb.generate, sample):
        of = inspect.signature(verb).parameters
        assert {name: of[name].default for name in UNSAID} == UNSAID


def test_the_library_and_the_command_name_what_changes_nothing(run, parambudget):
    said: list[str] = []
    greedy = {"max_tokens": 2, "temperature": 0.0, "num_samples": 2, "device": "cpu"}
    one, other = pb.generate(run, "the", on_notice=said.append, **greedy)
    assert one.text == other.text
    assert said == [f"`num_samples=2` has no effect: {GREEDY}, so all texts of a prompt are the same"]
    words = ("sample", str(run), "--prompt", "the", "--max-tokens", "2", "--temperature", "0", "--top-k", "3")
    code, _, err = parambudget(*words)
    assert (code, err) == (0, f"parambudget: --top-k 3 has no effect: with --temperature 0 {GREEDY}\n")


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_an_extreme_temperature_still_draws(temperature):
    logits = torch.tensor([1e4, -1e4, 0.0])
    assert sample_token(logits, SamplingParams(1, temperature, None, 0), torch.Generator()) in range(3)


def test_top_p_draws_from_the_fewest_that_sum_to_it():
    logits = torch.tensor([0.5, 0.05, 0.15, 0.3]).log()

    def drawn(top_p: float, top_k: int | None = None, temperature: float = 1.0) -> set[int]:
        generator = torch.Generator().manual_seed(0)
        params = SamplingParams(1, temperature, top_k, 0, top_p)
        return {sample_token(logits, params, generator) for _ in range(400)}

    assert drawn(0.5) == drawn(1e-9) == {0}
    assert drawn(0.51) == drawn(0.8) == {0, 3}
    assert drawn(0.81) == {0, 2, 3}
    assert drawn(1.0) == {0, 1, 2, 3}
    # Of the two most likely ones, 0 has 0.625; at a high temperature all are nearly alike.
    assert drawn(0.62, top_k=2) == {0}
    assert drawn(0.7, temperature=100.0) == {0, 2, 3}


# Past the context


@pytest.mark.parametrize("longest", [1, 2, 3, 4, 5, 16, 1000])
@pytest.mark.parametrize("n_prompt", [1, 4, 16, 17, 40])
def test_the_context_slides_in_jumps_and_never_holds_too_much_or_too_little(longest, n_prompt):
    starts = [context_start(n_prompt, n, longest) for n in range(3 * longest + 40)]
    seen = [n_prompt + n - start for n, start in enumerate(starts)]
    assert max(seen) <= longest
    assert starts == sorted(starts)
    slid = [count for count, start in zip(seen, starts, strict=True) if start]
    assert all(count >= max(1, longest - max(1, longest // 4)) for count in slid)
    assert [start for start, n in zip(starts, range(longest), strict=False) if n_prompt + n <= longest] == (
        [0] * max(0, min(longest, longest - n_prompt + 1))
    )


@pytest.mark.parametrize(
    "choices",
    [
        {"position": "rotary", "n_heads": 4, "n_kv_heads": 2, "qk_norm": "head"},
        {"position": "learned", "norm": "layernorm"},
        {"position": "alibi"},
        {"window": 3, "window_pattern": ("local", "global")},
        {"kv_lora_rank": 8, "qk_nope_head_dim": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_prompt", [3, 16, 21])
def test_each_token_is_what_the_model_alone_gives_for_the_tokens_it_sees(run, choices, n_prompt):
    """Greedy, in float64: the uncached module on the slid context takes the same tokens."""
    loaded = load_checkpoint(run, CPU)
    module = Transformer(small_model(**choices), device="cpu", dtype=torch.float64)
    module.init_weights(torch.Generator().manual_seed(0))
    loaded = replace(loaded, module=module.eval())
    ids = torch.randint(250, (n_prompt,), generator=torch.Generator().manual_seed(1)).tolist()
    made = list(generate_tokens(loaded, ids, SamplingParams(40, 0.0, None, 0)))
    assert len(made) == 40
    for n in range(40):
        visible = [*ids, *made[:n]][context_start(n_prompt, n, 16) :]
        with torch.no_grad():
            logits = module(torch.tensor([visible]))[0, -1, : loaded.tokenizer.entries]
        assert made[n] == int(logits.argmax()), n


def test_a_text_that_is_not_read_to_its_end_leaves_the_module_as_it_was(run):
    loaded = load_checkpoint(run, CPU)
    before = [type(layer.attention) for layer in loaded.module.layers]

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_text(loaded, "the", SamplingParams(9, 0.0, None, 0), on_text=stop)
    assert [type(layer.attention) for layer in loaded.module.layers] == before
    assert not torch.is_inference_mode_enabled()


# Samples


def test_several_texts_have_seeds_one_after_another(run):
    loaded, params = load_checkpoint(run, CPU), SamplingParams(8, 1.0, None, 5)
    made = list(generate_texts(loaded, ["the", "model"], params, 2))
    assert [(each.prompt, each.seed) for each in made] == [("the", 5), ("the", 6), ("model", 7), ("model", 8)]
    assert made[3] == generate_text(loaded, "model", replace(params, seed=8))
    with pytest.raises(InputError, match="`num_samples` is 0; use a whole number above 0"):
        list(generate_texts(loaded, ["the"], params, 0))


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


def test_past_the_context_it_says_what_was_out_of_sight(run, parambudget):
    code, out, err = parambudget(
        "sample", str(run), "--prompt", "the", "--max-tokens", "40", "--temperature", "0"
    )
    assert (code, len(out) > 40) == (0, True)
    assert re.fullmatch(r"\(at the end the first \d+ tokens were out of sight: .* sees 16 at most\)\n", err)
    again = parambudget("sample", str(run), "--prompt", "the model " * 20, "--max-tokens", "1")
    assert (again[0], "out of sight" in again[2]) == (0, True)


def test_several_samples_stand_one_after_another(run, parambudget):
    words = ("sample", str(run), "--prompt", "the", "--max-tokens", "6", "--temperature", "1")
    code, out, err = parambudget(*words, "--num-samples", "2", "--seed", "3")
    single = [parambudget(*words, "--seed", seed)[1] for seed in ("3", "4")]
    assert (code, err, out) == (0, "", "---\n".join(single))
    made = json.loads(parambudget(*words, "--num-samples", "2", "--seed", "3", "--json")[1])
    assert [(each["seed"], each["prompt"] + each["text"] + "\n") for each in made] == [
        (3, single[0]),
        (4, single[1]),
    ]


def test_prompts_are_read_from_standard_input_a_line_each(run, parambudget, monkeypatch):
    words = ("sample", str(run), "--max-tokens", "4")
    monkeypatch.setattr(sys, "stdin", io.StringIO("the\n\n  \nmodel"))
    code, out, err = parambudget(*words, "--interactive")
    single = [
        parambudget(*words, "--prompt", prompt, "--seed", str(seed))[1]
        for seed, prompt in enumerate(["the", "model"])
    ]
    assert (code, err, out) == (0, "", "---\n".join(single))
    monkeypatch.setattr(sys, "stdin", io.StringIO("the\nmodel\n"))
    made = json.loads(parambudget(*words, "-i", "--json")[1])
    assert [each["prompt"] for each in made] == ["the", "model"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert parambudget(*words, "-i", "--json")[:2] == (0, "[]\n")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second where the locale is C
def test_standard_input_that_is_not_utf_8_is_one_line(run, parambudget, monkeypatch, errors):
    stdin = io.TextIOWrapper(io.BytesIO(b"the\n\xff\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", stdin)
    code, _, err = parambudget("sample", str(run), "--max-tokens", "4", "-i")
    assert (code, err.count("\n")) == (2, 1)
    assert "of standard input is not UTF-8 text; write it in UTF-8" in err


def test_closed_standard_input_is_refused(run, parambudget, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = parambudget("sample", str(run), "-i")
    assert (code, "standard input is closed" in err) == (2, True)


def test_on_a_terminal_it_asks_until_the_end_and_ctrl_c_ends_one_text(run, parambudget, monkeypatch):
    """Of three prompts the second is interrupted while its text is written."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    lines = iter(["the", "", "model", "loss"])

    def answer(asking: str) -> str:
        assert asking == "> "
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    def interrupted_once(loaded, prompt, params, on_text):
        if prompt == "model":
            raise KeyboardInterrupt
        return generate_text(loaded, prompt, params, on_text)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("parambudget.training.generate.generate_text", interrupted_once)
    code, out, err = parambudget("sample", str(run), "--max-tokens", "4", "--interactive")
    assert (code, err) == (0, "")
    first, last = (
        parambudget("sample", str(run), "--max-tokens", "4", "--prompt", prompt, "--seed", seed)[1]
        for prompt, seed in (("the", "0"), ("loss", "2"))
    )
    assert out == f"{first}\n{last}\n"


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
    assert (made["ended"], made["n_tokens"]) == ("max_tokens", 99)
    # The last token follows from between 12 and 16 tokens, of all but itself.
    assert 12 <= made["n_prompt_tokens"] + made["n_tokens"] - 1 - made["n_dropped"] <= 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a checkpoint; give the folder of a run, its checkpoints/step-N"),
        (["run", "--temperature", "-1"], "temperature"),
        (["run", "--temperature", "inf"], "--temperature is inf; use 0 or a finite number"),
        (["run", "--max-tokens", "0"], "'0' should be greater than or equal to 1"),
        (["run", "--num-samples", "0"], "'0' should be greater than or equal to 1"),
        (["run", "--top-p", "0"], "--top-p is 0; use a share above 0 and at most 1, such as 0.95"),
        (["run", "--top-p", "1.5"], "--top-p is 1.5; use a share"),
        (["run", "--interactive", "--prompt", "the"], "reads the prompts from standard input; leave out --p"),
        (["run", "--device", "gpu"], "use auto, cpu, cuda, cuda:N or mps"),
        (["empty"], "empty has no checkpoint yet; wait for its first save"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(run, parambudget, monkeypatch, arguments, message):
    monkeypatch.chdir(run.parent)
    (run.parent / "empty/checkpoints").mkdir(parents=True, exist_ok=True)
    code, out, err = parambudget("sample", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
