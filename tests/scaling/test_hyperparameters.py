"""Repetition, learning rate and batch: published figures and properties."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.benchmark_scripts import load_benchmark
from support.steps import step_of

import parambudget as pb
from parambudget.arch.presets.registry import preset
from parambudget.arch.sizes import with_sizes
from parambudget.cost.flops import flops_per_token
from parambudget.errors import InputError
from parambudget.scaling.hyperparameters import (
    DEEPSEEK,
    HIGHEST_LEARNING_RATE,
    PUBLISHED_RUNS,
    STEP_LAW,
    USUAL_RATE,
    adamw_rate,
    batch_tokens,
    executed_batch,
    muon_rate,
    peak_learning_rate,
    step_law_rate,
    update_sizes,
    update_tokens,
    whole_updates,
)
from parambudget.scaling.loss import (
    REPETITIONS,
    effective_tokens,
    epochs,
    repetition_warning,
    worth_of_next_token,
)

amounts = st.floats(1, 1e15)


@pytest.mark.parametrize(
    ("times", "worth", "next_token"),
    [(1, 1, 1), (2, 1.97, 0.94), (4, 3.73, 0.82), (8, 6.62, 0.64), (16, 10.6, 0.38), (40, 15.2, 0.08)],
)
def test_what_repeated_text_is_worth(times, worth, next_token):
    assert epochs(times * 1e9, 1e9) == times
    assert effective_tokens(times * 1e9, 1e9) / 1e9 == pytest.approx(worth, abs=0.05 if worth > 10 else 6e-3)
    assert worth_of_next_token(times * 1e9, 1e9) == pytest.approx(next_token, abs=6e-3)


@given(amounts, amounts)
@example(59.20449723132234, 59.204497231322335)
def test_effective_tokens_are_at_most_the_tokens_trained_on_and_at_least_those_read_once(tokens, unique):
    worth = effective_tokens(tokens, unique)
    assert min(tokens, unique) <= worth <= tokens
    assert worth <= unique * (1 + REPETITIONS) * (1 + 1e-15)
    assert unique < tokens or worth == tokens


@given(amounts)
def test_text_read_without_end_is_worth_1_and_r_times_its_length(unique):
    assert effective_tokens(unique * 1e6, unique) == pytest.approx((1 + REPETITIONS) * unique, rel=1e-12)


@given(st.floats(1e6, 1e12), st.floats(0.1, 100))
def test_the_worth_of_the_next_token_is_the_slope_of_the_effective_tokens(unique, times):
    tokens, step = times * unique, 1e-4 * unique
    assume(abs(times - 1) > 1e-3)  # where the slope bends
    ahead, behind = (effective_tokens(tokens + sign * step, unique) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(worth_of_next_token(tokens, unique), abs=1e-4)


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=5))
def test_an_array_of_runs_gives_what_each_gives(runs):
    tokens, unique = np.array(runs).T
    for one in (epochs, effective_tokens, worth_of_next_token):
        assert one(tokens, unique) == pytest.approx([one(*run) for run in runs], rel=1e-14, abs=1e-300)


@pytest.mark.parametrize(
    ("times", "rule"), [(4.1, "above 4, repeated text is worth less"), (16.1, "above 16, little is gained")]
)
def test_above_4_epochs_repeated_text_is_worth_less_and_above_16_little_is_gained(times, rule):
    assert repetition_warning(times * 1e6, 1e6).startswith(f"{times} epochs: ")
    assert rule in repetition_warning(times * 1e6, 1e6)


@given(st.floats(1e-3, 4))
def test_up_to_4_epochs_there_is_nothing_to_warn_of(times):
    assert repetition_warning(times * 1024, 1024) is None


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.floats(0.01, 8))
def test_whole_updates_are_the_nearest_but_never_begin_a_fifth_epoch(data_tokens, update, times):
    tokens = round(times * data_tokens)
    found = whole_updates(tokens, update, data_tokens)
    assert found == 1 or tokens > 4 * data_tokens or found * update <= 4 * data_tokens
    assert found == 1 or abs(found * update - tokens) <= update
    assert whole_updates(tokens, update, None) == max(1, round(tokens / update))


@pytest.mark.parametrize(("name", "sequences"), [("deepseek-7b", 2304), ("deepseek-67b", 4608)])
def test_deepseeks_law_gives_the_batches_that_deepseek_used(name, sequences):
    model, tokens = preset(name), 2e12
    flops = tokens * flops_per_token(with_sizes(model, vocab_size=0))
    # They rounded to a number of sequences that their machines divide.
    assert batch_tokens(tokens, flops).deepseek.value == pytest.approx(sequences * 4096, rel=0.05)


@pytest.mark.parametrize(
    ("parameters", "tokens", "step_law", "step_batch", "deepseek_batch"),
    [
        (124e6, 2.5e9, 2.3e-3, 0.13e6, 0.28e6),
        (350e6, 7e9, 1.5e-3, 0.24e6, 0.54e6),
        (1e9, 20e9, 1.0e-3, 0.44e6, 1.08e6),
    ],
)
def test_both_laws_at_usual_sizes(parameters, tokens, step_law, step_batch, deepseek_batch):
    flops = 6 * parameters * tokens
    assert step_law_rate(parameters, tokens).value == pytest.approx(step_law, rel=0.03)  # two digits
    batch = batch_tokens(tokens, flops)
    assert (batch.step_law.value, batch.deepseek.value) == pytest.approx(
        (step_batch, deepseek_batch), rel=0.04
    )
    assert batch.middle == pytest.approx(math.sqrt(step_batch * deepseek_batch), rel=0.04)


def test_a_suggestion_says_where_its_law_was_fitted():
    assert STEP_LAW.fitted_on == "59M to 1.074B body parameters, 4B to 100B tokens"
    assert DEEPSEEK.fitted_on == "1e+17 to 2e+19 FLOPs"
    assert step_law_rate(350e6, 7e9).law is STEP_LAW
    assert batch_tokens(7e9, 1e18).deepseek.law is DEEPSEEK
    assert "arXiv" in STEP_LAW.source
    assert "arXiv" in DEEPSEEK.source


def test_within_its_range_a_suggestion_has_no_warning():
    assert step_law_rate(350e6, 7e9).warnings == ()
    both = batch_tokens(7e9, 1e19)
    assert both.step_law.warnings == both.deepseek.warnings == ()


def test_outside_its_range_a_suggestion_says_so():
    assert step_law_rate(7e9, 1e9).warnings == (
        "7B body parameters: outside the law's range (59M to 1.074B), extrapolated",
        "1B tokens: outside the law's range (4B to 100B), extrapolated",
    )
    warning = "1e+21 FLOPs: outside the law's range (1e+17 to 2e+19), extrapolated"
    assert batch_tokens(7e9, 1e21).deepseek.warnings == (warning,)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: epochs(0, 1e9), lambda: effective_tokens(1e9, -1), lambda: worth_of_next_token(math.nan, 1),
        lambda: repetition_warning(1e9, 0), lambda: step_law_rate(0, 1e9), lambda: step_law_rate(1e9, -1.0),
        lambda: adamw_rate(0, 1e9), lambda: adamw_rate(1e9, math.inf),
        lambda: batch_tokens(0, 1e19), lambda: batch_tokens(1e9, 0), lambda: batch_tokens(1e9, math.inf),
    ],
)  # fmt: skip
def test_nonsense_is_refused(refused):
    with pytest.raises(InputError, match="must be a finite number above 0"):
        refused()


def test_muons_rate_transfers_over_width_length_and_batch():
    rate = muon_rate(1024, 1e9, 2**18, 2**18)
    assert muon_rate(4096, 1e9, 2**18, 2**18) == pytest.approx(rate / 2)
    assert muon_rate(1024, 1e9, 2**16, 2**18) == pytest.approx(rate / 2)
    assert muon_rate(1024, 32e9, 2**18, 2**18) == pytest.approx(rate * 32**-0.16)


def test_muons_rate_is_the_best_one_of_the_small_runs_and_below_nanochats_at_scale():
    """nanochat's model of 20 layers: 0.1 / sqrt(dim) with 524,288 tokens an update, for 11B tokens."""
    assert muon_rate(128, 2**20, 2**12, 2**12) == pytest.approx(0.02, rel=0.15)
    model = pb.model(
        dim=1280, n_layers=20, n_heads=10, vocab_size=65536, context_length=2048, tied=False, gated=False,
        activation="relu2",
    )  # fmt: skip
    adamw, muon = (peak_learning_rate(model, 11_000_000_000, name, 2**19).rate for name in ("adamw", "muon"))
    assert adamw < muon < 0.1 / math.sqrt(1280)


@pytest.mark.parametrize("quantities", [(0, 1e9, 1, 1), (64, 0, 1, 1), (64, 1e9, 0, 1), (64, 1e9, 1, -1)])
def test_muons_rate_refuses_what_is_not_positive(quantities):
    with pytest.raises(InputError):
        muon_rate(*quantities)


class TestAdamwsRate:
    def test_inside_its_range_it_is_step_laws(self):
        found = adamw_rate(302e6, 7e9)
        assert found.rate == pytest.approx(step_law_rate(302e6, 7e9).value, rel=5e-3)
        assert found.why == "Step Law for 302M non-embedding parameters and 7B tokens"
        assert found.warning is None

    def test_llama_3_8b_on_15t_tokens_has_about_the_rate_that_it_had(self):
        """3e-4; Step Law, extrapolated 150 times in tokens, has 1.9e-3."""
        found = peak_learning_rate(preset("llama-3-8b"), 15 * 10**12, "adamw", 2**22)
        assert found.rate == pytest.approx(3e-4, rel=0.1)
        assert found.why == "as in published runs of 6.98B non-embedding parameters and 15T tokens"
        assert found.warning == (
            "learning rate: 6.98B body parameters and 15T tokens are outside Step Law's range (59M to 1.074B "
            "body parameters, 4B to 100B tokens); published runs take over"
        )

    def test_llama_2_7b_on_2t_tokens_has_about_the_rate_that_it_had(self):
        assert adamw_rate(6.476e9, 2e12).rate == pytest.approx(3e-4, rel=0.25)

    def test_below_its_range_the_end_of_step_law_is_held(self):
        """308M parameters and 831M tokens; for a millionth of both AdamW's best rate is 2.5e-3, measured in
        steps of a factor of 2 (docs/recipe.md)."""
        found = adamw_rate(308.3e6, 830.9e6)
        assert found.rate == pytest.approx(step_law_rate(308.3e6, 4e9).value, rel=5e-3)
        assert found.why == (
            "Step Law at the end of its range, for 308.3M non-embedding parameters and 830.9M tokens"
        )
        assert found.warning == (
            "learning rate: 830.9M tokens are outside Step Law's range (59M to 1.074B body parameters, 4B to "
            "100B tokens); its end is held"
        )
        assert 2.5e-3 / 2 < adamw_rate(1.05e6, 1.05e6).rate < 2.5e-3 * 2

    def test_above_its_range_it_gives_way_step_by_step(self):
        half_way = adamw_rate(302e6, 100e9 * math.sqrt(3))
        ends = step_law_rate(302e6, 100e9).value, USUAL_RATE(302e6, 100e9 * math.sqrt(3))
        assert half_way.rate == pytest.approx(math.sqrt(ends[0] * ends[1]), rel=5e-3)
        assert half_way.why == (
            f"between Step Law at the end of its range ({ends[0]:.2g}) and published runs ({ends[1]:.2g}), "
            "for 302M non-embedding parameters and 173.2B tokens"
        )
        assert half_way.warning is not None
        assert half_way.warning.endswith("; its end gives way to published runs")

    def test_the_bound_is_named_where_it_is_applied(self):
        found = adamw_rate(60e6, 90e9)
        assert found.rate == HIGHEST_LEARNING_RATE
        assert found.why.endswith("tokens says 0.012; never more than 0.005")
        assert found.warning is None

    def test_beyond_every_published_run_that_is_said_too(self):
        found = adamw_rate(2e12, 1e14)
        assert found.rate == pytest.approx(USUAL_RATE(4.017e11, 1.56e13), rel=5e-3)
        assert found.warning is not None
        assert found.warning.endswith(
            "; published runs take over, of which none has 2T body parameters or 100T tokens "
            f"({PUBLISHED_RUNS.fitted_on})"
        )

    @given(st.floats(1e4, 1e13), st.floats(1, 100), st.floats(1e5, 1e14))
    def test_a_larger_model_never_has_a_higher_rate_for_the_same_tokens(self, size, times, tokens):
        assert adamw_rate(size * times, tokens).rate <= adamw_rate(size, tokens).rate

    @given(st.floats(1e4, 1e13), st.floats(1e5, 1e14))
    @example(1.074e9, 1e11)
    @example(302e6, 1e11)
    @example(59e6, 4e9)
    def test_nothing_jumps(self, size, tokens):
        """The steepest stretch is where long runs of small models leave Step Law: some 15 % per 5 %."""
        rate = adamw_rate(size, tokens).rate
        for other in (adamw_rate(1.05 * size, tokens).rate, adamw_rate(size, 1.05 * tokens).rate):
            assert abs(math.log(other / rate)) < 0.2


@pytest.fixture(scope="module")
def script():
    """The script that holds the suggestions against published runs."""
    return load_benchmark("rates")


class TestPublishedRates:
    def test_four_of_five_rates_are_within_a_factor_of_2_of_the_one_that_was_used(self, script):
        runs = script.published()
        assert len(runs) == 121
        assert script.share_within(run.rate_ratio for run in runs) >= 0.8

    def test_the_page_has_the_table_and_the_shares_of_today(self, script):
        page = (script.HERE.parent / "docs" / "laws.md").read_text(encoding="utf-8")
        runs = script.published()
        assert "\n".join(script.table(runs)) in page
        for name, shares in script.shares(runs).items():
            cells = " | ".join("" if share is None else f"{share:.0%}" for share in shares[1:])
            assert f"{shares[0]} | {cells} |".replace("%", " %").replace("|  |", "| |") in page, name

    def test_every_run_has_a_source_and_every_source_a_run(self, script):
        document = json.loads((script.HERE / "published_rates.json").read_text(encoding="utf-8"))
        assert {run["source"] for run in document["runs"]} == document["sources"].keys()
        assert all(source["where"] and source["what"] for source in document["sources"].values())

    def test_the_models_have_the_parameters_of_their_names(self, script):
        """Within 15 %: names are rounded, and some count no embeddings."""
        sizes = {"GPT-3 175B": 175e9, "Llama 2 34B": 34e9, "DCLM 411M 1x": 411.6e6, "DCLM 1B 1x": 1439.8e6}
        sizes |= {"OpenELM 270M": 270e6, "OpenELM 450M": 450e6, "OpenELM 1.1B": 1.1e9, "OpenELM 3B": 3e9}
        sizes |= {"Qwen 1.8B": 1.84e9, "Qwen 14B": 14.2e9, "Salamandra 2B": 2.25e9, "Lucie 7B": 6.7e9}
        sizes |= {"StarCoderBase 3B": 3e9, "StarCoderBase 7B": 7.3e9, "DeepSeek-Coder 33B": 33.3e9}
        sizes |= {"LLM-jp-3 3.8B": 3.8e9, "LLM-jp-3 172B": 172e9}
        found = {run.name: pb.count(run.model).total for run in script.published() if run.name in sizes}
        assert found == pytest.approx(sizes, rel=0.15)

    def test_the_law_of_published_runs_spans_them(self, script):
        runs = [(pb.count(run.model).body, run.tokens) for run in script.published()]
        for values, bounds in zip(zip(*runs, strict=True), PUBLISHED_RUNS.ranges.values(), strict=True):
            assert (min(values), max(values)) == pytest.approx((bounds.low, bounds.high), rel=5e-3)

    def test_a_ratio_above_2_or_below_a_half_is_a_miss(self, script):
        assert script.share_within([1, 2, 0.5, 2.01, 0.49]) == 0.6


class TestBatches:
    def test_the_upper_bound_is_named(self):
        found = update_tokens(preset("llama-3-8b"), 15 * 10**12)
        assert (found.tokens, found.why) == (
            2**22,
            "about 4,194,304 tokens an update (Step Law says 19.36M, DeepSeek 19.4M tokens; never more than "
            "4,194,304)",
        )
        assert found.warning == (
            "batch: 15T tokens are outside Step Law's range (4B to 100B), 8.2e+23 FLOPs are outside "
            "DeepSeek's range (1e+17 to 2e+19); extrapolated; never more than 4,194,304"
        )

    def test_the_lower_bound_is_named(self):
        found = update_tokens(pb.model(dim=64, n_layers=2, n_heads=2, vocab_size=256), 10**6)
        assert found.tokens == 2**12
        assert found.why.endswith("; never fewer than 4,096)")
        assert found.warning is not None
        assert found.warning.endswith("; extrapolated; never fewer than 4,096")

    def test_within_the_laws_nothing_is_said(self):
        found = update_tokens(pb.model(dim=1024, n_layers=24, n_heads=16, intermediate_size=2688), 7 * 10**9)
        assert found.why == ("about 262,144 tokens an update (Step Law says 242.6K, DeepSeek 542.8K tokens)")
        assert found.warning is None

    def test_what_is_executed_otherwise_is_said(self):
        step = step_of(batch_size=1, gradient_accumulation_steps=1024, world_size=1024)
        assert executed_batch(2**22, step, 8192) == (
            "; executed as 8,388,608: 1 micro-step of 1 × 8,192 on 1,024 devices"
        )
        assert executed_batch(2**23, step, 8192) == ""


class TestMuonsWarning:
    def test_far_from_the_model_it_was_measured_on_one_line_says_so(self):
        model = pb.model(dim=1024, n_layers=24, n_heads=16, intermediate_size=2688)
        found = peak_learning_rate(model, 7 * 10**9, "muon", 2**18)
        assert found.warning == (
            "learning rate: Muon's rule was measured at 1.05M body parameters alone, and this model has "
            "298.9M"
        )

    def test_near_it_nothing_is_said(self):
        model = pb.model(dim=192, n_layers=4, n_heads=3, vocab_size=256)
        assert peak_learning_rate(model, 10**6, "muon", 2**12).warning is None

    def test_its_bound_is_named(self):
        found = peak_learning_rate(
            pb.model(dim=64, n_layers=2, n_heads=2, vocab_size=256), 10**6, "muon", 2**12
        )
        assert found.rate == 0.02
        assert found.why.endswith("; never more than 0.02")


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "mixtral-8x7b-v0.1"])
def test_the_updates_of_many_runs_are_those_of_each(name):
    model = pb.model(name)
    tokens = np.geomspace(1e5, 1e14, 40).astype(np.int64)
    each = [update_tokens(model, int(n)).tokens for n in tokens]
    assert update_sizes(model, tokens).tolist() == each
    assert len(set(each)) > 8
