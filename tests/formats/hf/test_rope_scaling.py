"""Rescaled rotary angles: the logits of transformers within and beyond the original context, both ways."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.arch.presets.counted import ROWS
from parambudget.arch.presets.registry import PRESETS, preset
from parambudget.arch.rope_scaling import RopeScaling
from parambudget.cost.params import count
from parambudget.errors import ConfigError
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.weights import load_pretrained, save_pretrained
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.rope_scaling import rescaled_frequencies
from parambudget.nn.transformer import Transformer

pytestmark = pytest.mark.usefixtures("one_thread")

ORIGINAL, EXTENDED, SHORT = 40, 96, 32
"""Tokens of the context, before and after its extension, and of a sequence within the first."""
PAIRS = 4
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False},
    "yarn with an attention factor": YARN | {"attention_factor": 0.8},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "longrope": {
        "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 2.0, 3.0, 4.5],
        "original_max_position_embeddings": ORIGINAL,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 1.5},
}  # fmt: skip
LLAMA3 = SCALINGS["llama3"]
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 24, "vocab_size": 40, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": None, "max_position_embeddings": EXTENDED, "sliding_window": 7, "rms_norm_eps": 1e-6,
}  # fmt: skip
HALVES = {"head_dim": 16, "partial_rotary_factor": 0.5}
OF_WIDTH_32 = {"partial_rotary_factor": 0.5, "num_attention_heads": 2, "num_key_value_heads": 2}
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 12, "n_shared_experts": 1, "experts_implementation": "eager",
}  # fmt: skip
OF_DEEPSEEK = EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENTS = OF_DEEPSEEK | {
    "kv_lora_rank": 12, "q_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10,
}  # fmt: skip
WIDE = {"head_dim": 8}
FAMILIES = {
    "arcee": {}, "cohere": {}, "cohere2": {}, "granite": {}, "llama": {}, "olmo": {}, "olmo2": {},
    "qwen2": {}, "smollm3": {}, "starcoder2": {}, "gemma": WIDE, "gemma2": WIDE, "gemma3_text": WIDE,
    "mistral": WIDE, "qwen3": WIDE, "seed_oss": WIDE, "glm": HALVES, "glm4": HALVES, "nemotron": HALVES,
    "phi": OF_WIDTH_32, "phi3": OF_WIDTH_32, "stablelm": OF_WIDTH_32,
    "gpt_neox": OF_WIDTH_32 | {"rotary_pct": 0.5},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2}, "mixtral": EXPERTS | WIDE,
    "qwen2_moe": EXPERTS, "olmoe": EXPERTS | {"sliding_window": None},
    "granitemoe": EXPERTS, "qwen3_moe": EXPERTS | WIDE,
    "gpt_oss": EXPERTS | WIDE, "glm4_moe": OF_DEEPSEEK | HALVES, "deepseek_v2": LATENTS,
    "deepseek_v3": LATENTS,
}  # fmt: skip
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}


def hf_config(kind: str, rope: dict, **more: object) -> dict:
    """A small config of the class."""
    context = ORIGINAL if rope.get("rope_type") == "dynamic" else EXTENDED
    own = {"original_max_position_embeddings": ORIGINAL} if kind == "phi3" else {}
    sizes = SIZES | {"max_position_embeddings": context} | FAMILIES[kind] | own
    return {"model_type": kind, "rope_scaling": dict(rope), **sizes} | more


def random_class(config: dict) -> PreTrainedModel:
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), **EAGER).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in theirs.state_dict().values():
        tensor.normal_(0, 0.2, generator=generator)
    return theirs


def tokens(n: int) -> torch.Tensor:
    return torch.randint(SIZES["vocab_size"], (1, n), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(module: torch.nn.Module, n: int) -> torch.Tensor:
    found = module(tokens(n))
    return found if isinstance(found, torch.Tensor) else found.logits


def assert_the_same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """The shorter sequence first, because the class keeps the angles of the longest one."""
    for n in (SHORT, EXTENDED):
        torch.testing.assert_close(logits(ours, n), logits(theirs, n), rtol=0, atol=1e-4)


def assert_both_ways(config: dict, folder: Path) -> ModelConfig:
    theirs = random_class(config)
    theirs.save_pretrained(folder / "theirs")
    ours = load_pretrained(folder / "theirs")
    assert_the_same(ours, theirs)
    made = to_hf(ours.model, config["model_type"])
    assert not made.unsupported
    save_pretrained(ours, made.document, folder / "ours")
    assert_the_same(ours, AutoModelForCausalLM.from_pretrained(folder / "ours", **EAGER).eval())
    return ours.model


def carries(kind: str, scaling: str) -> bool:
    if kind == "phi3":
        return scaling == "longrope"
    return scaling != "proportional" or kind not in ("phi", "stablelm")


CASES = [(kind, scaling) for kind in FAMILIES for scaling in SCALINGS if carries(kind, scaling)]
SOME = [
    *(("llama", scaling) for scaling in SCALINGS),
    ("cohere", "llama3"), ("deepseek_v2", "yarn"), ("gemma3_text", "linear"), ("glm", "longrope"),
    ("gpt_neox", "dynamic"), ("gpt_oss", "yarn"), ("phi3", "longrope"),
]  # fmt: skip
"""Every rescaling, and one of every way in which classes rotate."""


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [case if case in SOME else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_the_logits_are_those_of_the_class_both_ways(kind, scaling, tmp_path):
    model = assert_both_ways(hf_config(kind, SCALINGS[scaling]), tmp_path)
    assert model.rope_scaling.rope_type == scaling.split()[0]


@pytest.mark.parametrize("kind", ["deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize(
    "mscales", [{"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale_all_dim": 0.7}], ids=str
)
def test_deepseek_scales_its_scores_by_the_square_of_mscale(kind, mscales, tmp_path):
    model = assert_both_ways(hf_config(kind, YARN | mscales), tmp_path)
    scale = 0.1 * mscales["mscale_all_dim"] * math.log(4) + 1
    assert model.attention_multiplier == pytest.approx(14**-0.5 * scale**2)


def test_gpt_oss_has_the_yarn_of_its_class_unless_it_is_switched_off():
    yarn = read({"model_type": "gpt_oss"}).rope_scaling
    assert (yarn.rope_type, yarn.rope_factor, yarn.rope_original_context) == ("yarn", 32.0, 4096)
    assert not yarn.rope_truncate
    plain = {"rope_type": "default", "rope_theta": 150_000.0}
    assert read({"model_type": "gpt_oss", "rope_parameters": plain}).rope_scaling is None
    theirs = AutoConfig.for_model("gpt_oss").rope_parameters
    assert_frequencies_of({"model_type": "gpt_oss", "rope_parameters": theirs})


DEEPSEEK = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}
MSCALES = {"mscale": 1.0, "mscale_all_dim": 1.0}
PUBLISHED = {
    "llama-3.1-8b": ("llama", LLAMA3 | {"original_max_position_embeddings": 8192}),
    "llama-3.2-1b": ("llama", LLAMA3 | {"original_max_position_embeddings": 8192, "factor": 32.0}),
    "deepseek-v2": ("deepseek_v2", DEEPSEEK | MSCALES),
    "deepseek-v2-lite": ("deepseek_v2", DEEPSEEK | {"mscale": 0.707, "mscale_all_dim": 0.707}),
    "deepseek-v3": ("deepseek_v3", DEEPSEEK | MSCALES),
    "kimi-k2": ("kimi_k2", DEEPSEEK | MSCALES | {"factor": 32.0, "beta_fast": 1.0}),
    "gpt-oss-20b": ("gpt_oss", None),
}
"""The objects of published configs."""
SAME_OBJECT = {
    "llama-3.1-70b": "llama-3.1-8b", "llama-3.1-405b": "llama-3.1-8b", "llama-3.2-3b": "llama-3.2-1b",
    "deepseek-r1": "deepseek-v3", "deepseek-v3.2": "deepseek-v3", "deepseek-v3.2-exp": "deepseek-v3",
    "gpt-oss-120b": "gpt-oss-20b",
}  # fmt: skip


@pytest.mark.parametrize("name", [*PUBLISHED, *SAME_OBJECT])
def test_a_preset_has_its_published_rescaling(name):
    kind, rope = PUBLISHED[SAME_OBJECT.get(name, name)]
    needed = {"num_experts_per_tok": 6} if kind == "deepseek_v2" else {}
    published = read({"model_type": kind, "rope_scaling": rope} | needed)
    ours = preset(name)
    assert ours.rope_scaling == published.rope_scaling
    assert ours.attention_multiplier == published.attention_multiplier


def test_no_other_preset_is_rescaled_but_phi_4_mini_and_olmo_3():
    rescaled = {name for name, row in PRESETS.items() if row.model.rope_scaling}
    counted = {row.name for row in ROWS}
    assert rescaled - counted == {*PUBLISHED, *SAME_OBJECT, "phi-4-mini", "olmo-3-7b", "olmo-3-32b"}
    assert preset("phi-4-mini").rotary_scale == pytest.approx(1.1902381)


def read(config: dict) -> ModelConfig:
    return with_defaults(from_hf(config, "config.json").fields).model


# Spellings

LINEAR = {"type": "linear", "factor": 2}


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "rope_type": None} | {"type": "llama3"}},
        {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
        {"rope_theta": 1.0, "rope_scaling": None, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
        {"rope_theta": 1.0, "rope_parameters": {}, "rope_scaling": LLAMA3 | {"rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 7},
         "original_max_position_embeddings": ORIGINAL},
    ],
    ids=["old", "type", "new", "null", "both", "top level"],
)  # fmt: skip
def test_all_spellings_are_read_as_the_same(spelling):
    given = {key: value for key, value in spelling.items() if key != "rope_scaling"}
    if (old := spelling.get("rope_scaling")) is not None:
        given["rope_scaling"] = {key: value for key, value in old.items() if value is not None}
    config = {"model_type": "llama", "max_position_embeddings": EXTENDED} | given
    model = read(config)
    assert model.rope_theta == 5e5
    assert model.rope_scaling == RopeScaling(
        rope_type="llama3", rope_factor=8.0, rope_original_context=ORIGINAL
    )
    assert_frequencies_of(config)


@pytest.mark.parametrize("nothing", [None, {}, {"rope_type": "default"}, {"type": "default"}])
def test_without_a_rescaling_the_fields_are_those_of_before(nothing):
    assert "rope_type" not in from_hf({"model_type": "llama", "rope_scaling": nothing}, "").fields
    assert read({"model_type": "llama", "rope_scaling": nothing}).model_dump()["rope_scaling"] is None


def test_gemma_3_rescales_its_global_layers_only():
    linear = {"rope_type": "linear", "factor": 8.0}
    old = {"model_type": "gemma3_text", "rope_scaling": linear}
    new = {"model_type": "gemma3_text", "rope_parameters": {
        "full_attention": linear | {"rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }}  # fmt: skip
    assert read(old) == read(new)
    assert (read(new).rope_scaling.rope_factor, read(new).rope_theta_local) == (8.0, 1e4)
    local = {"sliding_attention": linear, "full_attention": {"rope_type": "default"}}
    with_local = from_hf({"model_type": "gemma3_text", "rope_parameters": local}, "")
    assert with_local.unsupported == ("rescaled rotary frequencies of local layers (linear)",)


def test_phi_3_takes_the_context_of_its_class_and_the_names_that_it_had():
    factors = SCALINGS["longrope"] | {"rope_type": "su"}
    config = hf_config("phi3", factors)
    del config["original_max_position_embeddings"]
    scaling = read(config).rope_scaling
    assert (scaling.rope_type, scaling.rope_original_context) == ("longrope", 4096)
    assert scaling.rope_recompute_cache


def test_a_shorter_context_keeps_the_attention_factor_of_longrope():
    model = read(hf_config("phi3", SCALINGS["longrope"]))
    assert model.rotary_scale == pytest.approx((1 + math.log(96 / 40) / math.log(40)) ** 0.5)
    assert model.replace(context_length=SHORT).rotary_scale == model.rotary_scale


def test_phi_moe_has_its_attention_factor_from_mscale():
    factors = SCALINGS["longrope"] | {"short_mscale": 1.2, "long_mscale": 1.2}
    config = {"model_type": "phimoe", "hidden_size": 32, "num_attention_heads": 4, "rope_scaling": factors}
    imported = from_hf(config | {"num_key_value_heads": 4}, "")
    assert imported.fields["rope_attention_factor"] == 1.2
    assert imported.unsupported == ("short rotary factors at every length",)
    made = to_hf(with_defaults(imported.fields).model, "phimoe").document["rope_scaling"]
    assert (made["short_mscale"], made["long_mscale"]) == (1.2, 1.2)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "llama", "rope_scaling": {"type": "mrope"}}, "rescaled rotary frequencies (mrope)"),
        ({"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2}}, "frequencies (linear)"),
        ({"model_type": "phi", "rope_scaling": {"type": "proportional"}}, "frequencies of a share of 0.5"),
        ({"model_type": "llama", "partial_rotary_factor": 0.5, "rope_scaling": LINEAR},
         "rescaled frequencies of a share of 0.5"),
        ({"model_type": "glm", "head_dim": 10, "rope_scaling": {"type": "dynamic", "factor": 2}},
         "dynamic frequencies of an odd number of elements"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_counted_with_a_note_and_named(config, what):
    imported = from_hf(config, "")
    assert what in imported.unsupported[0]
    assert imported.notes[0].startswith("counted exactly, but built without ")
    assert count(with_defaults(imported.fields).model).total > 0


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "linear"}, "factor is missing, which linear rotary positions need; give it"),
        ({"rope_type": "linear", "factor": "2"}, "factor of linear rotary positions is '2'; give a number"),
        ({"rope_type": "linear", "factor": float("inf")}, "factor of linear rotary positions is inf; give"),
        ({"rope_type": "linear", "factor": 10**400}, "factor of linear rotary positions is 1000"),
        ({"rope_type": "linear", "factor": -2}, "rope_factor is -2.0; it must be greater than 0"),
        ({"rope_type": "llama3", "factor": 8}, "low_freq_factor is missing, which llama3 rotary positions"),
        (YARN | {"original_max_position_embeddings": 2.5}, "embeddings is 2.5; it must be a whole number"),
        ({"rope_type": "longrope", "short_factor": 3}, "short_factor of longrope rotary positions is 3; "),
        (SCALINGS["longrope"], "rope_short_factors has 4 entries, and 64 pairs of each head are rotated"),
        (SCALINGS["longrope"] | {"long_factor": [1, None]}, "long_factor is missing"),
    ],
)  # fmt: skip
def test_a_malformed_rescaling_is_refused_in_one_line(scaling, message):
    with pytest.raises(ConfigError) as refused:
        read({"model_type": "llama", "rope_scaling": scaling})
    assert message in str(refused.value)
    assert len(str(refused.value)) < 300


# Frequencies


def assert_frequencies_of(config: dict) -> None:
    """Ours are those that transformers computes for a sequence within and one beyond the original context."""
    theirs, model = AutoConfig.for_model(**config), read(config)
    kind = theirs.rope_parameters["rope_type"]
    for n in (SHORT, EXTENDED, 3 * EXTENDED):
        expected, scale = ROPE_INIT_FUNCTIONS[kind](theirs, "cpu", seq_len=n)
        found = rescaled_frequencies(
            model.rope_scaling, model.rope_theta, model.rotary_dim // 2, None,
            n_tokens=n, stretch=n / model.context_length,
        )  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=3e-6, atol=0)
        assert model.rotary_scale == pytest.approx(scale)


numbers = st.floats(0.25, 64)
contexts = st.integers(2, 10_000)
RANDOM_SCALINGS = {
    "linear": {"factor": numbers},
    "dynamic": {"factor": numbers},
    "yarn": {"factor": numbers | st.none(), "original_max_position_embeddings": contexts},
    "llama3": {
        "factor": numbers, "low_freq_factor": st.floats(0.5, 4), "high_freq_factor": st.floats(0.6, 8),
        "original_max_position_embeddings": contexts,
    },
    "longrope": {
        "short_factor": st.lists(numbers, min_size=PAIRS, max_size=PAIRS),
        "long_factor": st.lists(numbers, min_size=PAIRS, max_size=PAIRS),
    },
    "proportional": {},
}  # fmt: skip
OPTIONAL = {
    "yarn": {
        "beta_fast": numbers | st.none(), "beta_slow": numbers | st.none(), "truncate": st.booleans(),
        "attention_factor": numbers | st.none(), "mscale": numbers | st.just(0.0),
        "mscale_all_dim": numbers | st.just(0.0),
    },
    "longrope": {
        "original_max_position_embeddings": contexts, "factor": numbers,
        "attention_factor": numbers | st.none(),
    },
    "proportional": {"factor": numbers, "partial_rotary_factor": st.sampled_from((0.25, 0.5, 0.6, 1.0))},
}  # fmt: skip


@pytest.mark.parametrize("kind", RANDOM_SCALINGS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_frequencies_are_those_of_transformers(kind, data):
    fields = st.fixed_dictionaries(RANDOM_SCALINGS[kind], optional=OPTIONAL.get(kind, {}))
    rope = {"rope_type": kind, "rope_theta": data.draw(st.sampled_from((100.0, 1e4, 5e5)))} | data.draw(
        fields
    )
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": EXTENDED}
    assert_frequencies_of({"model_type": "llama", "rope_parameters": rope} | sizes)


# The two names of the type


@pytest.mark.parametrize(
    ("rope", "kind"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, None),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "linear"),
        ({"rope_parameters": {"full_attention": {"type": "linear", "factor": 4.0}}}, "linear"),
    ],
)
def test_gemma_3_reads_the_older_name_of_the_type_only_in_its_own_objects(rope, kind, tmp_path):
    config = hf_config("gemma3_text", {}) | {"rope_scaling": None} | rope
    random_class(config).save_pretrained(tmp_path)
    read = from_hf(config, "config.json")
    assert read.fields.get("rope_type") == kind
    assert any("does not read their type linear" in note for note in read.notes) == (kind is None)
    ours = Transformer(with_defaults(read.fields).model)
    ours.load_state_dict(load_pretrained(tmp_path).state_dict())
    assert_the_same(ours, AutoModelForCausalLM.from_pretrained(tmp_path, **EAGER).eval())


# Generation


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [("llama", "dynamic"), ("llama", "longrope"), ("phi3", "longrope"), ("gemma3_text", "dynamic")],
)
def test_generation_with_a_cache_follows_transformers(kind, scaling, tmp_path):
    """Past the length at which the angles change: cached keys keep theirs, and Phi-3 computes them anew."""
    # A class without windows drops cached keys all the same where its config has the key.
    window = {} if kind == "gemma3_text" else {"sliding_window": None}
    theirs = random_class(hf_config(kind, SCALINGS[scaling], **window))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    prompt = tokens(ORIGINAL - 6)
    expected = theirs.generate(
        prompt, max_new_tokens=16, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    with torch.no_grad(), kv_cache(ours, EXTENDED) as hidden:
        new = prompt
        for scores in expected.logits:
            found = ours.logits(hidden(new)[:, -1:])
            torch.testing.assert_close(found[:, 0], scores, rtol=0, atol=1e-4)
            new = scores.argmax(-1, keepdim=True)


def test_a_cache_that_is_not_computed_anew_gives_other_logits_than_the_whole_sequence():
    """So that the test before this one can fail."""
    model = read(hf_config("llama", SCALINGS["longrope"]))
    for recompute in (False, True):
        module = Transformer(model.replace(rope_recompute_cache=recompute, init_std=0.5))
        module.init_weights(torch.Generator().manual_seed(0))
        with torch.no_grad(), kv_cache(module, EXTENDED) as hidden:
            hidden(tokens(ORIGINAL))
            last = module.logits(hidden(tokens(ORIGINAL + 1)[:, -1:]))
        whole = logits(module, ORIGINAL + 1)[:, -1:]
        assert torch.allclose(last, whole, atol=1e-4) == recompute
