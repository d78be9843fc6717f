"""What is said of settings that change nothing beside others; and that it is true."""

import json

import pytest
from support.training_data import small_config, small_model, write_text

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.training.config import TrainConfig
from parambudget.training.device import select_device
from parambudget.training.optimization.optimizer import build_optimizer, set_schedule
from parambudget.training.run.defaults import ResolvedTrainConfig, settings_without_effect
from parambudget.training.train_state import init_module

NO_SCALARS = {"norm_weight": False}
CASES = [
    # what is given beside it, the setting, two values, the reason or None, further fields of the model
    ({"optimizer": "adamw"}, "momentum", 0.9, 0.8, "only Muon has a momentum", {}),
    ({"optimizer": "adamw"}, "momentum_warmup_steps", 5, 6, "only Muon has a momentum", {}),
    ({"optimizer": "muon"}, "momentum", 0.9, 0.8, None, {}),
    ({"optimizer": "muon", "momentum": 0.8}, "momentum_warmup_steps", 5, 6, "warms up from 0.85", {}),
    ({"optimizer": "muon", "momentum": 0.9}, "momentum_warmup_steps", 5, 6, None, {}),
    ({"warmup_steps": 9}, "final_learning_rate", 1e-5, 0.0, "never decays", {}),
    ({"warmup_steps": 9}, "schedule", "cosine", "wsd", "never decays", {}),
    ({"warmup_steps": 8}, "final_learning_rate", 1e-5, 0.0, "at most one update follows the warm-up", {}),
    ({"warmup_steps": 7}, "final_learning_rate", 1e-5, 0.0, None, {}),
    (
        {"schedule": "wsd", "decay_share": 0.1}, "final_learning_rate", 1e-5, 0.0,
        "its decay is one update long", {},
    ),
    ({"schedule": "wsd", "decay_share": 0.1}, "decay_share", 0.1, 0.3, None, {}),
    ({"final_learning_rate": 3e-3}, "schedule", "cosine", "wsd", "the final learning rate is the peak", {}),
    ({"final_learning_rate": 2e-3}, "schedule", "cosine", "wsd", None, {}),
    ({"schedule": "linear"}, "decay_share", 0.5, 0.6, "it is for `schedule=wsd` alone", {}),
    ({"schedule": "cosine"}, "decay_share", 0.5, 0.6, "it is for `schedule=wsd` alone", {}),
    ({"schedule": "wsd"}, "decay_share", 0.5, 0.8, None, {}),
    ({"weight_decay": 0.0}, "weight_decay_schedule", "proportional", "constant", "no weight decay", {}),
    (
        {"weight_decay": 0.0, "head_weight_decay": 0.1}, "weight_decay_schedule", "proportional", "constant",
        None, {"tied": False},
    ),
    ({}, "scalar_learning_rate", 1e-3, 2e-3, "this model has no norm weights, biases or sinks", NO_SCALARS),
    ({}, "scalar_learning_rate", 1e-3, 2e-3, None, {}),
]  # fmt: skip


def behaviour(config: TrainConfig, model: ModelConfig) -> object:
    """All that the optimizer gets in a run."""
    optimizer = build_optimizer(init_module(model, 0, select_device("cpu")), model, config)
    seen = []
    for step in range(config.steps):
        set_schedule(optimizer, config, step)
        seen.append([
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ])  # fmt: skip
    return seen


@pytest.mark.parametrize(("beside", "name", "value", "other", "reason", "fields"), CASES)
def test_a_setting_that_changes_nothing_is_named_and_no_other(beside, name, value, other, reason, fields):
    model = small_model(**fields)
    configs = [small_config(**{"steps": 9} | beside | {name: each}) for each in (value, other)]
    resolved = ResolvedTrainConfig(configs[0], frozenset({name}), {})
    found = list(settings_without_effect(resolved, model))
    same = behaviour(configs[0], model) == behaviour(configs[1], model)
    assert same == (reason is not None)
    assert len(found) == same
    if reason is not None:
        assert found[0].startswith(f"`{name}=")
        assert "` has no effect: " in found[0]
        assert reason in found[0]


@pytest.mark.parametrize(("momentum", "given"), [(0.9, {"steps"}), (0.95, {"steps", "momentum"})])
def test_what_was_chosen_or_has_its_default_is_not_named(momentum, given):
    resolved = ResolvedTrainConfig(small_config(momentum=momentum), frozenset(given), {})
    assert list(settings_without_effect(resolved, small_model())) == []


def test_the_command_and_the_library_say_it_in_one_line(tmp_path, run, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text")
    (tmp_path / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    settings = {"steps": 1, "batch_size": 2, "gradient_accumulation_steps": 1, "optimizer": "adamw"}
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, _, err = run(
        "train", tmp_path / "config.json", "--data", text, "--device", "cpu", "--out", tmp_path / "run",
        *flags, "--momentum", 0.9, "--momentum-warmup-steps", 5,
    )  # fmt: skip
    assert (code, err) == (
        0,
        "parambudget: --momentum 0.9 and --momentum-warmup-steps 5 have no effect: only Muon has a momentum, "
        "and this run has --optimizer adamw\n",
    )
    said: list[str] = []
    pb.train(
        tmp_path / "config.json", tmp_path / "other", data=text, device="cpu",
        events=pb.TrainEvents(on_notice=said.append), decay_share=0.5, **settings | {"steps": 3},
    )  # fmt: skip
    assert said == ["`decay_share=0.5` has no effect: it is for `schedule=wsd` alone"]
