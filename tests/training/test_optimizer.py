"""The recipe's claims: what Muon takes, how the learning rate goes, what the z-loss adds, what is default."""

import re
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.strategies import models
from support.training_data import small_config, small_model
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.nn.transformer import Transformer
from parambudget.text.token_cache import TokenData
from parambudget.training import loop, train_state
from parambudget.training.checkpoint import files
from parambudget.training.config import TRAIN_FIELDS, TrainConfig
from parambudget.training.dataloader import TokenWindows
from parambudget.training.device import Environment, select_device
from parambudget.training.loss import build_loss
from parambudget.training.metrics import StepMetrics
from parambudget.training.optimization.optimizer import (
    build_optimizer,
    clip_grad_norm,
    group_parameters,
    set_schedule,
)
from parambudget.training.optimization.schedule import learning_rate, momentum, weight_decay_share
from parambudget.training.run.defaults import with_train_defaults
from parambudget.training.train_state import TrainState

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = select_device("cpu")
OPTIMIZERS = ("muon", "adamw")
ATTENTION = r"(q|k|v|out|gate|q_down|q_up|kv_down|kv_up)"
FFN = r"ffn\.(((shared|experts(\.\d+)?)\.)?(gate|up|down)|latent_(in|out))"
HIDDEN = re.compile(rf"(layers\.\d+\.(attention\.{ATTENTION}|{FFN})|project_(in|out))\.weight")
HEAD = re.compile(r"(lm_head|layers\.\d+\.ffn\.(router|shared_gate))\.weight")
EMBEDDINGS = re.compile(r"(embed|position)\.weight")


def updated(data: TokenData, n: int, config: TrainConfig, model: ModelConfig | None = None) -> TrainState:
    """A small model after so many updates."""
    made = train_state.init_train_state(model or small_model(), config, CPU)
    batches = loop.micro_batches(TokenWindows(data.train, 16, 0), 0, config, CPU)
    for _ in range(n):
        loss = loop.accumulate_gradients(made.loss_fn, batches, config, CPU)
        loop.optimizer_step(made.optimizer, loss, torch.tensor(1.0))
    return made


def weights(made: TrainState) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in made.module.named_parameters()}


@settings(max_examples=40, deadline=None)
@given(models())
def test_every_parameter_is_in_one_group_and_its_role_says_which(model):
    module = Transformer(model, device="meta")
    found = group_parameters(module, model)
    group_of = {id(parameter): kind for kind, members in vars(found).items() for parameter in members}
    named = {name: each for name, each in module.named_parameters() if each.requires_grad}
    assert sum(map(len, vars(found).values())) == len(group_of) == len(named)
    for name, parameter in named.items():
        patterns = {"matrices": HIDDEN, "head": HEAD, "embeddings": EMBEDDINGS}
        expected = [kind for kind, pattern in patterns.items() if pattern.fullmatch(name)] or ["scalars"]
        assert [group_of[id(parameter)]] == expected, name


KINDS = {
    "experts": dict(
        n_experts=4, n_experts_per_token=2, n_shared_experts=1, n_first_dense=1, correction_bias=True,
        router_scores="sigmoid", n_layers=3,
    ),
    "fused experts": dict(n_experts=4, n_experts_per_token=1, fused_experts=True),
    "latents": dict(
        kv_lora_rank=12, q_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8
    ),
    "windows": dict(
        window=6, window_pattern=("local", "global"), attention_sinks=True, attention_softcap=20.0
    ),
    "alibi": dict(position="alibi", embedding_norm=True, embedding_dim=24),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_learns_and_a_checkpoint_brings_it_back(data, tmp_path, kind, optimizer):
    model, config = small_model(**KINDS[kind]), small_config(optimizer=optimizer)
    tokens = torch.from_numpy(TokenWindows(data.train, 16, 0).batch(0, 4))
    losses = {}
    for n in (0, 20):
        made = updated(data, n, config, model)
        losses[n] = made.loss_fn(tokens).item()
    assert losses[20] < losses[0] - 0.2
    for name, buffer in made.module.named_buffers():
        if name.endswith("correction"):
            buffer.fill_(0.5)
    about = files.RunMetadata({}, "{}", Environment("CPU"))
    held = files.take_snapshot(
        StepMetrics(20, 0.0, 0.0, 0.0, False, 0, 0.0, None), made.module, made.optimizer, about
    )
    folder, other = files.write_checkpoint(tmp_path, held), updated(data, 0, config, model)
    files.restore(folder, files.read_state(folder), other.module, other.optimizer)
    assert other.loss_fn(tokens).item() == made.loss_fn(tokens).item()


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_embedding_and_a_head_of_its_own_is_decayed(tied):
    model = small_model(tied=tied)
    module = Transformer(model, device="cpu")
    muon, *adamw = build_optimizer(module, model, small_config(optimizer="muon")).param_groups
    decays = {id(p): group["weight_decay"] for group in adamw for p in group["params"]}
    assert decays[id(module.embed.weight)] == 0
    assert decays[id(module.lm_head.weight)] == (0 if tied else 0.1)
    assert muon["weight_decay"] == 0.1


OWN = {
    "learning_rate": 0.02, "embedding_learning_rate": 0.2, "head_learning_rate": 0.004,
    "scalar_learning_rate": 0.01, "final_learning_rate": 0.002, "weight_decay": 0.3,
    "embedding_weight_decay": 0.01, "head_weight_decay": 0.02, "embedding_beta1": 0.8, "head_beta2": 0.96,
}  # fmt: skip
NAMED = ("matrices", "head", "embeddings", "scalars")


def groups_after(step: int, optimizer: str, **changes: object) -> dict[str, dict[str, object]]:
    """The optimizer's groups by name, as they are set for an update."""
    model = small_model(tied=False, qkv_bias=True)
    config = small_config(optimizer=optimizer, steps=40, warmup_steps=4, **OWN | changes)
    made = build_optimizer(Transformer(model, device="cpu"), model, config)
    set_schedule(made, config, step)
    groups = {group["name"]: group for group in made.param_groups}
    assert len(groups) == len(made.param_groups)
    return groups


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("step", "share"), [(0, 0.25), (3, 1.0), (4, 1.0), (22, 0.55), (40, 0.1)])
def test_every_group_has_its_own_rate_and_follows_the_same_schedule(optimizer, step, share):
    groups = groups_after(step, optimizer)
    peaks = dict(zip(NAMED, (0.02, 0.004, 0.2, 0.01), strict=True))
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == pytest.approx({name: share * peak for name, peak in peaks.items()})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_group_has_its_own_decay_and_betas(optimizer):
    groups = groups_after(20, optimizer)
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert decays == dict(zip(NAMED, (0.3, 0.02, 0.01, 0.0), strict=True))
    betas = {name: group["betas"] for name, group in groups.items() if "betas" in group}
    expected = {"embeddings": (0.8, 0.95), "head": (0.9, 0.96), "scalars": (0.9, 0.95)}
    assert betas == expected | ({"matrices": (0.9, 0.95)} if optimizer == "adamw" else {})


def test_a_group_without_settings_of_its_own_has_those_of_the_matrices():
    none = dict.fromkeys(name for name in OWN if name.startswith(("embedding", "head", "scalar")))
    groups = groups_after(22, "muon", **none | {"embedding_weight_decay": 0.0})
    assert {group["lr"] for group in groups.values()} == {groups["matrices"]["lr"]}
    assert (groups["head"]["weight_decay"], groups["embeddings"]["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [0.3, 0.3, 0.3, 0.3]), ("proportional", [0.3, 0.3, 0.165, 0.03])]
)
def test_weight_decay_is_constant_or_falls_with_the_rate_once_that_is_warm(schedule, expected):
    found = [
        groups_after(step, "muon", weight_decay_schedule=schedule)["matrices"]["weight_decay"]
        for step in (0, 4, 22, 40)
    ]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"momentum_warmup_steps": 0}, [0.95, 0.95, 0.95, 0.95]),
        ({"momentum_warmup_steps": 20}, [0.85, 0.9, 0.95, 0.95]),
        ({"momentum_warmup_steps": 20, "momentum": 0.5}, [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_momentum_rises_from_085_to_the_setting(settings, expected):
    found = [groups_after(step, "muon", **settings)["matrices"]["momentum"] for step in (0, 10, 20, 40)]
    assert found == pytest.approx(expected)


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0, 0.999))
def test_the_schedules_depend_on_the_step_alone_and_stay_in_their_bounds(step, warm_up, value):
    config = small_config(
        steps=300, momentum=value, momentum_warmup_steps=warm_up, weight_decay_schedule="proportional",
        final_learning_rate=0.0,
    )  # fmt: skip
    assert min(0.85, value) <= momentum(step, config) <= value
    assert 0 <= weight_decay_share(step, config) <= 1
    assert momentum(step, config) <= momentum(step + 1, config)


def test_under_muon_the_other_tensors_move_as_under_adamw(data):
    before = weights(updated(data, 0, small_config()))
    muon, adamw = (weights(updated(data, 1, small_config(optimizer=name))) for name in OPTIMIZERS)
    for name in before:
        assert not torch.equal(muon[name], before[name]), name
        assert torch.equal(muon[name], adamw[name]) == (HIDDEN.fullmatch(name) is None), name


def test_an_update_of_muon_is_nearly_orthogonal_and_of_the_size_of_adamws(data):
    config = small_config(optimizer="muon", weight_decay=0.0)
    before, after = (weights(updated(data, n, config)) for n in (0, 1))
    for name in filter(HIDDEN.fullmatch, before):
        # 0.2, where every singular value is 1; five rounds of the iteration leave most between 0.7 and 1.2.
        moved = (before[name] - after[name]) / config.learning_rate
        assert 0.13 < moved.square().mean().sqrt() < 0.24, name
        stretched = torch.linalg.svdvals(moved) / (0.2 * max(moved.shape) ** 0.5)
        assert 0.6 < stretched.median() < 1.2, name
        assert stretched.max() < 1.3, name


def test_muon_without_decay_leaves_a_matrix_where_it_is_when_nothing_pulls_at_it():
    model, config = small_model(), small_config(optimizer="muon", weight_decay=0.0)
    module = train_state.init_module(model, 0, CPU)
    optimizer = build_optimizer(module, model, config)
    before = module.layers[0].ffn.up.weight.clone()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(module.layers[0].ffn.up.weight, before)


def test_the_state_of_muon_goes_out_and_in_as_a_dict(data):
    made, other = (updated(data, n, small_config(optimizer="muon")) for n in (3, 0))
    other.module.load_state_dict(made.module.state_dict())
    other.optimizer.load_state_dict(deepcopy(made.optimizer.state_dict()))
    for each in (made, other):
        tokens = torch.from_numpy(TokenWindows(data.train, 16, 0).batch(12, 4))
        loop.optimizer_step(
            each.optimizer,
            loop.accumulate_gradients(each.loss_fn, [tokens], small_config(), CPU),
            torch.tensor(1.0),
        )
    there, here = weights(made), weights(other)
    assert all(torch.equal(there[name], here[name]) for name in there)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_ends_with_the_same_weights_optimizer_and_losses(data, tmp_path, optimizer):
    settings = small_config(
        optimizer=optimizer, schedule="wsd", eval_every=6, save_every=2, embedding_learning_rate=1e-2,
        scalar_learning_rate=1e-3, momentum_warmup_steps=4, weight_decay_schedule="proportional",
    )  # fmt: skip
    asked_to_stop = iter([False, False, False, True])
    loop.train(loop.TrainJob(small_model(), settings, data, tmp_path / "whole"), device="cpu")
    for stopped in (lambda: next(asked_to_stop), lambda: False):
        loop.train(
            loop.TrainJob(small_model(), settings, data, tmp_path / "cut", resume=True),
            device="cpu",
            stop_requested=stopped,
        )
    for file in ("model.safetensors", "optimizer.safetensors"):
        whole, cut = (load_file(tmp_path / name / "checkpoints/step-6" / file) for name in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[name], cut[name]) for name in whole)
    losses = [re.findall(r'"loss": [^,]+', metrics(tmp_path / name)) for name in ("whole", "cut")]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]


def metrics(out: Path) -> str:
    return (out / "metrics.jsonl").read_text()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_batch_in_parts_makes_the_update_of_the_whole(data, optimizer):
    whole, parts = (
        updated(
            data, 1, small_config(optimizer=optimizer, batch_size=size, gradient_accumulation_steps=8 // size)
        )
        for size in (8, 2)
    )
    there, here = weights(whole), weights(parts)
    for name in there:
        # Gradients differ in their last bits; Muon goes on in bfloat16, with 8 bits, and AdamW's first update
        # turns on the sign of gradients that are nearly zero.
        assert (there[name] - here[name]).square().mean().sqrt() < 0.02 * 3e-3, name


@pytest.mark.parametrize(
    "choice",
    [{"logit_softcap": 15.0}, {"qk_norm": "head"}, {"zero_init_out": True}, {"tied": False}],
    ids=lambda choice: next(iter(choice)),
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_choices_that_steady_a_model_train(data, optimizer, choice):
    config, model = small_config(optimizer=optimizer, learning_rate=1e-2), small_model(**choice)
    tokens = torch.from_numpy(TokenWindows(data.train, 16, 0).batch(10_000, 16))
    before, after = (updated(data, n, config, model) for n in (0, 15))
    with torch.no_grad():
        assert after.loss_fn(tokens) < before.loss_fn(tokens) - 0.5
    here, there = weights(before), weights(after)
    assert all(not torch.equal(here[name], there[name]) for name in here)


configs = st.builds(
    lambda steps, warm_up, schedule, decay_share, peak, final: small_config(
        steps=steps, warmup_steps=round(warm_up * steps), schedule=schedule, decay_share=decay_share,
        learning_rate=peak, final_learning_rate=final * peak,
    ),
    st.integers(1, 300), st.floats(0, 1), st.sampled_from(["linear", "cosine", "wsd"]),
    st.floats(0.01, 1), st.floats(1e-6, 1), st.floats(0, 1),
)  # fmt: skip


@settings(deadline=None)
@given(configs)
def test_the_learning_rate_rises_to_the_peak_and_falls_to_the_end(config):
    rates = [learning_rate(step, config) for step in range(config.steps + 1)]
    rise, fall = rates[: config.warmup_steps], rates[config.warmup_steps :]
    peak, final = config.learning_rate, config.final_learning_rate
    nearly = 1 + 1e-12  # both ends are mixed in float64
    assert all(before < after for before, after in pairwise(rise))
    assert all(after <= before * nearly for before, after in pairwise(fall))
    assert all(0 < rate <= peak * nearly for rate in rise)
    assert all(final / nearly <= rate <= peak * nearly for rate in fall)
    assert rates[-1] == final
    assert not rise or rise[-1] == peak
    assert len(fall) == 1 or fall[0] == peak
    assert learning_rate(10 * config.steps, config) == final


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_each_schedule_falls_as_its_name_says(schedule):
    half = small_config(
        schedule=schedule, decay_share=0.5, steps=1000, warmup_steps=0, learning_rate=1.0,
        final_learning_rate=0.0,
    )  # fmt: skip
    quarters = [learning_rate(step, half) for step in (250, 500, 750, 875)]
    expected = {
        "linear": [0.75, 0.5, 0.25, 0.125],
        "cosine": [0.853553, 0.5, 0.146447, 0.038060],
        "wsd": [1.0, 1.0, 0.292893, 0.133975],
    }
    assert quarters == pytest.approx(expected[schedule], abs=1e-6)


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_z_loss_adds_its_gradient_and_leaves_the_loss(data, chunks):
    model = small_model()
    tokens = torch.from_numpy(TokenWindows(data.train, 16, 0).batch(0, 4))
    module = train_state.init_module(model, 0, CPU)
    plain = build_loss(module, small_config(loss_chunks=chunks), CPU)(tokens)
    reported = build_loss(module, small_config(z_loss=0.3, loss_chunks=chunks), CPU)(tokens)
    assert reported == plain
    torch.autograd.backward(reported)
    found = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    module.zero_grad()
    logits = module(tokens[:, :-1])
    log_z = logits.exp().sum(-1).log()
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) + 0.3 * (log_z**2).mean()
    torch.autograd.backward(expected)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert any(
        (found[name] - grad).norm() > 0.1 * grad.norm() for name, grad in gradients(module, tokens).items()
    )


def gradients(module: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """Of the cross-entropy alone."""
    module.zero_grad()
    torch.autograd.backward(build_loss(module, small_config(), CPU)(tokens))
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(("longest", "norm_after"), [(0.5, 0.5), (100.0, 5.0), (None, 5.0)])
def test_a_gradient_longer_than_grad_clip_is_scaled_to_it(longest, norm_after):
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm([parameter], longest) == 5
    assert parameter.grad.norm() == pytest.approx(norm_after, rel=1e-5)


@pytest.mark.parametrize("name", ["head_learning_rate", "head_weight_decay", "head_beta1", "head_beta2"])
def test_a_setting_of_the_head_is_refused_where_the_head_is_the_embedding(name):
    message = rf"^{name}=0.5 is for an output head .* tied .*; use `{name.replace('head', 'embedding')}`"
    with pytest.raises(ConfigError, match=message):
        with_train_defaults({name: 0.5}, small_model(tied=True), 10**6, on_cpu=True)
    for model in (small_model(tied=False), small_model(tied=True, n_experts=4, n_experts_per_token=2)):
        assert getattr(with_train_defaults({name: 0.5}, model, 10**6, on_cpu=True).config, name) == 0.5


@pytest.mark.parametrize("given", [{}, {"steps": 50}, {"schedule": "wsd", "optimizer": "adamw", "seed": 3}])
def test_every_setting_that_was_filled_in_has_its_reason(given):
    completed = with_train_defaults(given, small_model(), 10**6, on_cpu=True)
    assert completed.given == given.keys()
    assert completed.reasons.keys() == TRAIN_FIELDS.keys() - given.keys()
    assert all(completed.reasons.values())


@pytest.mark.parametrize(
    ("optimizer", "tied", "chosen"),
    [
        ("adamw", False, {"optimizer"}),
        ("muon", True, {"momentum_warmup_steps", "embedding_learning_rate", "beta1"}),
        (
            "muon", False,
            {"momentum_warmup_steps", "embedding_learning_rate", "head_learning_rate", "beta1"},
        ),
    ],
)  # fmt: skip
def test_what_is_filled_in_is_what_a_config_has_by_itself_but_for_the_recipe_of_muon(optimizer, tied, chosen):
    model = small_model(tied=tied)
    completed = with_train_defaults({"optimizer": optimizer}, model, 10**6, on_cpu=True).config
    fields, values = TRAIN_FIELDS.items(), completed.model_dump()
    others = {name for name, field in fields if not field.is_required() and values[name] != field.default}
    assert others == chosen


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "sgd"}, 'optimizer is \'sgd\'; it must be "muon" or "adamw"'),
        ({"schedule": "step"}, 'schedule is \'step\'; it must be "linear", "cosine" or "wsd"'),
        ({"decay_share": 0.0}, "decay_share is 0.0; it must be greater than 0"),
        ({"z_loss": -1.0}, "z_loss is -1.0; it must be greater than or equal to 0"),
        ({"grad_clip": 0.0}, "grad_clip is 0.0; it must be greater than 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_one_line(wrong, message):
    with pytest.raises(ConfigError) as error:
        with_train_defaults(wrong, small_model(), 10**6, on_cpu=True)
    assert str(error.value) == message


def test_settings_may_be_numbers_of_numpy():
    numbers = {"steps": np.int64(3), "batch_size": np.int32(2), "learning_rate": np.float64(1e-3)}
    plain = {name: value.item() for name, value in numbers.items()}
    resolved = [with_train_defaults(each, small_model(), 10_000, on_cpu=True) for each in (numbers, plain)]
    assert resolved[0].config == resolved[1].config
    assert type(resolved[0].config.steps) is int
