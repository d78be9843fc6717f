"""Random config.json files of every family that is read, and what the class makes of them.

Drawn from the family's own table: every key that it reads is at times there and at times left to the class.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from parambudget.formats.hf.importer import FAMILIES
from parambudget.formats.hf.schema import Family, kind_of

Draw = Callable[[st.SearchStrategy[Any]], Any]

INSTANTIATED_AS = {"kimi_k2": "deepseek_v3", "mobilellm": "llama"}
"""Types whose class is remote code, and the class that it is a copy of."""

NEEDED = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "nemotron": {"num_key_value_heads": 4},
}
"""What two layers of a class cannot do without, for which it has no default that would do."""
SPARINGLY = {
    "decoder_sparse_step": (1, 2, 3), "first_k_dense_replace": (0, 1, 3), "max_window_layers": (0, 1, 4),
    "n_shared_experts": (1, 2), "no_rope_layer_interval": (1, 2, 4), "num_ln_in_parallel_attn": (None, 1, 2),
    "q_lora_rank": (None, 12, 24), "query_pre_attn_scalar": (64, 144), "rotary_dim": (2, 4, 8),
    "sliding_window_pattern": (1, 2, 4), "topk_method": ("greedy",),
    "hidden_act": ("silu", "gelu", "relu2", "mish"), "activation_function": ("gelu_new", "gelu", "relu"),
    "activation": ("gelu", "relu"), "afn": ("gelu", "silu"),
    "hidden_activation": ("gelu_pytorch_tanh", "silu"),
    "partial_rotary_factor": (0.5, 1.0), "rotary_pct": (0.5, 1.0), "swiglu_alpha": (1.702,),
    "qk_nope_head_dim": (8, 16), "qk_rope_head_dim": (4, 8), "use_bidirectional_attention": (None,),
    "word_embed_proj_dim": (None, 8), "initializer_range": (0.02, 0.1), "init_std": (0.02, 0.1),
}  # fmt: skip
"""Values of keys for which any number of their kind would not do."""
TOGETHER = {
    "n_group", "topk_group", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
    "num_kv_heads", "layer_types", "no_rope_layers", "mlp_only_layers", "attention_types", "attention_layers",
}  # fmt: skip
"""Keys that agree with others: drawn apart."""
THETAS = st.sampled_from([500.0, 5000.0])
SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "tied")


@st.composite
def configs(draw: Draw, kind: str) -> dict[str, Any]:
    """A small config.json of the kind, with many of its keys left to the class's default."""
    family = FAMILIES[kind]
    n_layers = draw(st.integers(1, 4))
    config = {"model_type": kind, family.keys["n_layers"]: n_layers} | NEEDED.get(kind, {})
    if draw(st.booleans()):
        config |= sizes(draw, family)
    placed = {family.keys[field] for field in SIZES if field in family.keys}
    for key in sorted(family.defaults.keys() - placed - TOGETHER - family.only.keys()):
        if draw(st.booleans()):
            config[key] = draw(value_of(key, family))
    if draw(st.booleans()):
        config["tie_word_embeddings"] = draw(st.booleans())
    if kind == "olmoe" or (kind == "phi" and config.get("qk_layernorm")):
        config.pop("head_dim", None)  # their norms are as wide as heads that fill the width
    config |= experts(draw, family) | lists(draw, family, n_layers) | rotations(draw, family)
    nested = {key for key in config if key.startswith("attn_config.")}
    if nested:
        config["attn_config"] = {key.removeprefix("attn_config."): config.pop(key) for key in nested}
    return config


def sizes(draw: Draw, family: Family) -> dict[str, Any]:
    """Width and heads that agree; heads need not fill the width where the class lets them."""
    keys, heads = family.keys, draw(st.sampled_from([2, 4, 6]))
    config = {keys["dim"]: heads * draw(st.sampled_from([8, 16])), keys["n_heads"]: heads}
    if "n_kv_heads" in keys:
        takes_null = family.defaults["num_key_value_heads"] is None and family is not FAMILIES["nemotron"]
        config["num_key_value_heads"] = draw(st.sampled_from([1, 2, heads] + [None] * takes_null))
    if "num_kv_heads" in family.defaults:
        config["num_kv_heads"] = draw(st.sampled_from([None, 1, 2]))
    if "head_dim" in keys and draw(st.booleans()):
        config["head_dim"] = draw(st.sampled_from([8, 16]))
    return config


def value_of(key: str, family: Family) -> st.SearchStrategy[Any]:
    default = family.defaults[key]
    if key in SPARINGLY:
        return st.sampled_from(SPARINGLY[key])
    values = {
        bool: st.booleans(),
        int: st.sampled_from([8, 24, 40]),
        float: st.sampled_from([0.25, 0.5, 2.0]),
    }[kind_of(key, default)]
    return st.none() | values if default is None else values


def experts(draw: Draw, family: Family) -> dict[str, Any]:
    """Experts, groups that divide them, and no more per token than the groups hold."""
    key = next(
        (key for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in family.defaults),
        "",
    )
    if not key or (family.defaults["num_experts_per_tok"] is not None and draw(st.booleans())):
        return {}
    n_groups = draw(st.integers(1, 2)) if "n_group" in family.defaults else 1
    best = draw(st.integers(1, n_groups))
    of_group = draw(st.integers(2, 3))
    chosen = {key: n_groups * of_group, "num_experts_per_tok": draw(st.integers(1, best * of_group))}
    return chosen | ({"n_group": n_groups, "topk_group": best} if "n_group" in family.defaults else {})


def lists(draw: Draw, family: Family, n_layers: int) -> dict[str, Any]:
    """One entry per layer, where the class has such lists."""
    words = {"layer_types": ("sliding_attention", "full_attention"), "no_rope_layers": (0, 1)}
    config = {}
    for key, choice in words.items():
        if key in family.defaults and draw(st.booleans()):
            config[key] = draw(st.lists(st.sampled_from(choice), min_size=n_layers, max_size=n_layers))
    if "mlp_only_layers" in family.defaults and draw(st.booleans()):
        config["mlp_only_layers"] = draw(st.none() | st.lists(st.integers(0, n_layers), max_size=n_layers))
    if "attention_types" in family.defaults:
        kinds = draw(st.lists(st.sampled_from(("global", "local")), min_size=n_layers, max_size=n_layers))
        config["attention_types"] = [[kinds, 1]]
    return config


def rotations(draw: Draw, family: Family) -> dict[str, Any]:
    """Objects that say how it rotates, in either place, or both; Gemma 3 has one for each kind of layer."""
    if "rope_theta" not in family.keys:
        return {}
    theta = st.fixed_dictionaries({"rope_type": st.just("default")}, optional={"rope_theta": THETAS})
    by_kind = st.fixed_dictionaries({"full_attention": theta}, optional={"sliding_attention": theta})
    objects = {
        "rope_parameters": by_kind if "rope_theta_local" in family.keys else theta,
        "rope_scaling": theta,
    }
    return {key: draw(one) for key, one in objects.items() if draw(st.booleans())}


COMPONENTS = (
    (r"lm_head|embed_out", "lm_head"),
    (r"norm|\bln_", "norm"),
    (r"wpe|embed_positions|positions_embed", "position_embedding"),
    (r"project_(in|out)", "embedding_projection"),
    (r"router|shared_expert_gate|mlp\.gate\.", "router"),
    (r"mlp|moe|ffn|fc[12]", "ffn"),
    (r"attn|attention", "attention"),
    (r"wte|embed", "token_embedding"),
)


def component_of(name: str) -> str:
    """Our component of a parameter of a Hugging Face model, by its name."""
    return next(component for pattern, component in COMPONENTS if re.search(pattern, name))


def class_config(config: dict[str, Any]) -> PreTrainedConfig:
    """The class's own config."""
    kind = config["model_type"]
    words = {key: value for key, value in config.items() if key != "model_type"} | {"pad_token_id": None}
    if kind == "mobilellm":
        words["tie_word_embeddings"] = words.pop("share_embedding", False) or words.get(
            "tie_word_embeddings", False
        )
    return AutoConfig.for_model(INSTANTIATED_AS.get(kind, kind), **words)


def built(config: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Components of the class's own model, a shared parameter once, and what one token meets of it."""
    theirs = class_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(theirs)
    components: dict[str, int] = {}
    idle = 0
    for name, parameter in model.named_parameters():
        component = component_of(name)
        components[component] = components.get(component, 0) + parameter.numel()
        if ".experts." in name:
            others = parameter.shape[0] - theirs.num_experts_per_tok
            idle += parameter.numel() // parameter.shape[0] * others
    return components, sum(components.values()) - idle
