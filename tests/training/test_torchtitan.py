"""The config for torchtitan: what it says, what is refused, and what torchtitan itself loads."""

import ast
import json
import sys

import pytest
import torch
from support.training_data import small_config, small_model

import parambudget as pb
from parambudget.arch.presets.registry import preset
from parambudget.cost.params import total
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import text_of
from parambudget.formats.source import config_document
from parambudget.training.exports.torchtitan import to_torchtitan
from parambudget.training.optimization.schedule import learning_rate

SCHEDULES = {
    "linear": {}, "cosine": {"schedule": "cosine"}, "wsd": {"schedule": "wsd", "decay_share": 0.35}
}  # fmt: skip
MODELS = {
    "llama3": small_model(tied=False),
    "llama3, tied and rescaled": small_model(
        tied=True, rope_type="llama3", rope_factor=4.0, rope_original_context=8, rotary_interleaved=True
    ),
    "qwen3": small_model(qk_norm="head", head_dim=8, tied=True, norm_eps=1e-6),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_file_is_python_of_the_pinned_version(model):
    made = to_torchtitan(model, small_config())
    ast.parse(text_of(made))
    assert text_of(made).startswith(f'"""A config of torchtitan 0.3.0, for its {made.name}')


def test_it_has_the_batch_the_schedule_and_the_optimizer_of_the_run():
    config = small_config(gradient_accumulation_steps=3, embedding_learning_rate=0.01, grad_clip=0.5)
    document = to_torchtitan(MODELS["llama3"], config).document["training"]
    assert document["training"] == {
        "local_batch_size": 4, "global_batch_size": 12, "steps": 6, "max_norm": 0.5
    }  # fmt: skip
    assert document["lr_scheduler"] == {
        "warmup_steps": 2, "decay_type": "linear", "min_lr_factor": pytest.approx(1e-5 / 3e-3)
    }  # fmt: skip
    groups = document["param_groups"]
    assert (groups[r"tok_embeddings\."]["lr"], groups[".*"]["lr"]) == (0.01, 0.003)
    assert (groups["norm"]["weight_decay"], groups[".*"]["weight_decay"]) == (0.0, 0.1)


def test_output_projections_start_as_they_do_here():
    text = text_of(to_torchtitan(small_model(init_std=0.08, n_layers=8)))
    assert 'INIT = {"weight": partial(nn.init.normal_, std=0.08)}' in text
    assert 'OUT_INIT = {"weight": partial(nn.init.normal_, std=0.02)}' in text
    assert "normal_, std=0.0)" in text_of(to_torchtitan(small_model(zero_init_out=True)))


def test_it_has_the_other_settings_of_the_run_and_the_epsilon_of_the_norms():
    model = small_model(norm_eps=1e-6)
    made = to_torchtitan(
        model, small_config(seed=7, gradient_checkpointing=True, steps=40, **SCHEDULES["wsd"])
    )
    text, training = text_of(made), made.document["training"]
    assert "debug=DebugConfig(seed=7)" in text
    assert "activation_checkpoint=FullAC.Config()" in text
    assert "normalized_shape=width, eps=1e-06" in text
    assert training["lr_scheduler"]["decay_ratio"] == pytest.approx(0.35)
    assert "activation_checkpoint=None" in text_of(to_torchtitan(model, small_config()))


def test_a_tied_model_has_no_group_for_its_head():
    groups = [
        list(to_torchtitan(MODELS[name], small_config()).document["training"]["param_groups"])
        for name in ("llama3", "qwen3")
    ]
    assert groups == [[r"tok_embeddings\.", r"lm_head\.", "norm", ".*"], [r"tok_embeddings\.", "norm", ".*"]]
    assert "CheckpointManager.Config(enable=True, " in text_of(to_torchtitan(MODELS["qwen3"], small_config()))


def test_what_differs_from_the_run_is_said_and_stands_in_the_file():
    made = to_torchtitan(MODELS["llama3"], small_config(gradient_accumulation_steps=6))
    documented = " ".join(ast.get_docstring(ast.parse(text_of(made))).split())
    assert all(note in documented for note in made.notes)
    assert any("must divide 6, to take the 6 micro-steps of an update" in note for note in made.notes)
    assert any("own document only, as with mask_documents=True here" in note for note in made.notes)
    (single, _) = to_torchtitan(MODELS["llama3"], small_config()).notes[-2:]
    assert single.startswith("1 process can take the 1 micro-step of an update; for more processes, lower")


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        ({"qkv_bias": True}, {}, "the closest, llama3, has qkv_bias=False where the model has True"),
        ({"n_experts": 4, "n_experts_per_token": 2}, {}, "no model of torchtitan 0.3.0 as written here"),
        ({}, {"optimizer": "muon"}, "has no `optimizer='muon'` as it is here; change that setting"),
        ({}, {"z_loss": 1e-4}, "has no z-loss"),
        ({}, {"weight_decay_schedule": "proportional"}, "has no weight decay that follows the learning rate"),
    ],
)
def test_what_torchtitan_does_not_have_is_refused_in_one_line(fields, settings, message):
    with pytest.raises(ConfigError) as refused:
        to_torchtitan(small_model(**fields), small_config(**settings))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_come_from_the_config_file_of_a_run_and_without_them_that_is_said(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_document(MODELS["qwen3"], None, small_config().model_dump())))
    made = pb.export(path, "torchtitan", out=tmp_path / "out")
    assert made.document["training"]["training"]["steps"] == 6
    assert (tmp_path / "out" / "torchtitan_config.py").read_text() == text_of(made)
    alone = pb.export("qwen3-0.6b", "torchtitan")
    assert any("torchtitan's defaults: give the config.json of a run" in note for note in alone.notes)
    assert "training" not in alone.document


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A config as torchtitan's own parser loads it."""
    pytest.importorskip("torchtitan", reason="needs older packages than the tests do")
    from torchtitan.config.manager import ConfigManager

    def parse(made):
        (tmp_path / "torchtitan_config.py").write_text(text_of(made))
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("torchtitan_config", None)
        return ConfigManager().parse_args(["--module", "torchtitan_config", "--config", "config"])

    return parse


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_torchtitan_builds_the_planned_parameters(model, load):
    config = load(to_torchtitan(model, small_config()))
    with torch.device("meta"):
        built = config.model_spec.model.build()
    assert sum(parameter.numel() for parameter in built.parameters()) == total(model)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_torchtitan_has_the_settings_of_every_parameter_and_writes_checkpoints(model, load):
    ours = small_config(embedding_learning_rate=0.01)
    config = load(to_torchtitan(model, ours))
    from torchtitan.components.optimizer import OptimizersContainer

    with torch.device("meta"):
        built = config.model_spec.model.build()
    groups = [
        group
        for optimizer in OptimizersContainer(config.optimizer, model_parts=[built])
        for group in optimizer.param_groups
    ]
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rates.keys() == {id(parameter) for parameter in built.parameters()}
    assert rates[id(built.tok_embeddings.weight)] == 0.01
    assert (config.checkpoint.enable, config.checkpoint.interval) == (True, ours.save_every)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("settings", SCHEDULES.values(), ids=SCHEDULES)
def test_torchtitan_has_the_learning_rate_of_every_update(settings, load):
    ours = small_config(steps=40, warmup_steps=5, **settings)
    config = load(to_torchtitan(MODELS["llama3"], ours))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=ours.learning_rate)
    schedulers = config.lr_scheduler.build(optimizers=[optimizer], training_steps=config.training.steps)
    for step in range(ours.steps):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate(step, ours), rel=1e-6)
        optimizer.step()
        schedulers.step()


def test_a_published_model_is_written():
    assert to_torchtitan(preset("llama-3.1-8b")).name == "llama3"
    assert to_torchtitan(preset("qwen3-8b")).name == "qwen3"
