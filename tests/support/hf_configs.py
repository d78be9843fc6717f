"""Random config.json files of every supported family, and what its class builds of them.

They are drawn from the family's own schema: every key is sometimes present and sometimes left to its default.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.schema import ConfigSchema

Draw = Callable[[st.SearchStrategy[Any]], Any]

INSTANTIATED_AS = {"kimi_k2": "deepseek_v3", "mobilellm": "llama"}
"""Types whose class is remote code, and the type of the class that it is a copy of."""
SCHEMAS = {model_type: family.config for model_type, family in FAMILIES.items()}

REQUIRED_KEYS = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "nemotron": {"num_key_value_heads": 4},
}
"""Keys that a class of two layers needs, and for which it has no suitable default."""
ALLOWED_VALUES = {
    "decoder_sparse_step": (1, 2, 3), "first_k_dense_replace": (0, 1, 3), "max_window_layers": (0, 1, 4),
    "n_shared_experts": (1, 2), "no_rope_layer_interval": (1, 2, 4), "num_ln_in_parallel_attn": (None, 1, 2),
    "q_lora_rank": (None, 12, 24), "query_pre_attn_scalar": (64, 144), "rotary_dim": (2, 4, 8),
    "sliding_window_pattern": (1, 2, 4), "topk_method": ("greedy",),
    "hidden_act": ("silu", "gelu", "relu2", "mish"), "activation_function": ("gelu_new", "gelu", "relu"),
    "activation": ("gelu", "relu"), "afn": ("gelu", "silu"),
    "hidden_activation": ("gelu_pytorch_tanh", "silu"),
    "partial_rotary_factor": (0.3, 0.5, 1.0), "rotary_pct": (0.4, 0.5, 1.0), "swiglu_alpha": (1.702,),
    "qk_nope_head_dim": (8, 16), "qk_rope_head_dim": (4, 8), "use_bidirectional_attention": (None,),
    "word_embed_proj_dim": (None, 8), "initializer_range": (0.02, 0.1), "init_std": (0.02, 0.1),
}  # fmt: skip
"""The values of keys for which not every number of the right type will do."""
INTERDEPENDENT = {
    "n_group", "topk_group", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
    "num_kv_heads", "layer_types", "no_rope_layers", "mlp_only_layers", "attention_types", "attention_layers",
}  # fmt: skip
"""Keys that must agree with others; they are drawn separately."""
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
SMALL_SIZES = {
    "ffn_dim": 24, "ffn_hidden_size": 24, "intermediate_size": 24, "kv_lora_rank": 24, "n_inner": 24,
    "moe_intermediate_size": 24, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "rotary_dim": 4,
    "shared_expert_intermediate_size": 24, "v_head_dim": 24,
}  # fmt: skip
THETAS = st.sampled_from([500.0, 5000.0])
SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "tied")


@st.composite
def configs(draw: Draw, model_type: str) -> dict[str, Any]:
    """A small config.json of the type, with many keys left to the class's defaults."""
    schema = SCHEMAS[model_type]
    n_layers = draw(st.integers(1, 4))
    config = {"model_type": model_type, schema.keys["n_layers"]: n_layers} | REQUIRED_KEYS.get(model_type, {})
    if draw(st.booleans()):
        config |= sizes(draw, schema)
    placed = {schema.keys[field] for field in SIZES if field in schema.keys}
    for key in sorted(schema.defaults.keys() - placed - INTERDEPENDENT - schema.required_values.keys()):
        if draw(st.booleans()):
            config[key] = draw(value_of(key, schema))
    if draw(st.booleans()):
        config["tie_word_embeddings"] = draw(st.booleans())
    if model_type == "olmoe" or (model_type == "phi" and config.get("qk_layernorm")):
        config.pop("head_dim", None)  # their norms are as wide as heads that fill the width
    config |= experts(draw, schema) | lists(draw, schema, n_layers) | rotations(draw, schema)
    nested = {key for key in config if key.startswith("attn_config.")}
    if nested:
        config["attn_config"] = {key.removeprefix("attn_config."): config.pop(key) for key in nested}
    return config


def sizes(draw: Draw, schema: ConfigSchema) -> dict[str, Any]:
    """Width and heads that agree; heads need not fill the width where the class lets them."""
    keys, heads = schema.keys, draw(st.sampled_from([2, 4, 6]))
    config = {keys["dim"]: heads * draw(st.sampled_from([8, 16])), keys["n_heads"]: heads}
    if "n_kv_heads" in keys:
        takes_null = schema.defaults["num_key_value_heads"] is None and schema is not SCHEMAS["nemotron"]
        config["num_key_value_heads"] = draw(st.sampled_from([1, 2, heads] + [None] * takes_null))
    if "num_kv_heads" in schema.defaults:
        config["num_kv_heads"] = draw(st.sampled_from([None, 1, 2]))
    if "head_dim" in keys and draw(st.booleans()):
        config["head_dim"] = draw(st.sampled_from([8, 16]))
    return config


def value_of(key: str, schema: ConfigSchema) -> st.SearchStrategy[Any]:
    default = schema.defaults[key]
    if key in ALLOWED_VALUES:
        return st.sampled_from(ALLOWED_VALUES[key])
    values = {
        bool: st.booleans(),
        int: st.sampled_from([8, 24, 40]),
        float: st.sampled_from([0.25, 0.5, 2.0]),
    }[schema.value_type(key)]
    return st.none() | values if default is None else values


def experts(draw: Draw, schema: ConfigSchema) -> dict[str, Any]:
    """Experts, groups that divide them, and no more per token than the groups hold."""
    key = next((key for key in EXPERT_COUNTS if key in schema.defaults), "")
    if not key or (schema.defaults["num_experts_per_tok"] is not None and draw(st.booleans())):
        return {}
    n_groups = draw(st.integers(1, 2)) if "n_group" in schema.defaults else 1
    best = draw(st.integers(1, n_groups))
    of_group = draw(st.integers(2, 3))
    chosen = {key: n_groups * of_group, "num_experts_per_tok": draw(st.integers(1, best * of_group))}
    return chosen | ({"n_group": n_groups, "topk_group": best} if "n_group" in schema.defaults else {})


def lists(draw: Draw, schema: ConfigSchema, n_layers: int) -> dict[str, Any]:
    """One entry per layer, where the class has such lists."""
    choices = {"layer_types": ("sliding_attention", "full_attention"), "no_rope_layers": (0, 1)}
    config = {}
    for key, choice in choices.items():
        if key in schema.defaults and draw(st.booleans()):
            config[key] = draw(st.lists(st.sampled_from(choice), min_size=n_layers, max_size=n_layers))
    if "mlp_only_layers" in schema.defaults and draw(st.booleans()):
        config["mlp_only_layers"] = draw(st.none() | st.lists(st.integers(0, n_layers), max_size=n_layers))
    if "attention_types" in schema.defaults:
        words = draw(st.lists(st.sampled_from(("global", "local")), min_size=n_layers, max_size=n_layers))
        config["attention_types"] = [[words, 1]]
    return config


def rotations(draw: Draw, schema: ConfigSchema) -> dict[str, Any]:
    """Rotary parameters under either key, or both; Gemma 3 has one object for each layer type."""
    if "rope_theta" not in schema.keys:
        return {}
    theta = st.fixed_dictionaries({"rope_type": st.just("default")}, optional={"rope_theta": THETAS})
    by_layer_type = st.fixed_dictionaries({"full_attention": theta}, optional={"sliding_attention": theta})
    objects = {
        "rope_parameters": by_layer_type if "rope_theta_local" in schema.keys else theta,
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
    model_type = config["model_type"]
    keywords = {key: value for key, value in config.items() if key != "model_type"} | {"pad_token_id": None}
    if model_type == "mobilellm":
        keywords["tie_word_embeddings"] = keywords.pop("share_embedding", False) or keywords.get(
            "tie_word_embeddings", False
        )
    return AutoConfig.for_model(INSTANTIATED_AS.get(model_type, model_type), **keywords)


def class_counts(config: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Parameters of the class's own model by component, shared ones once, and those active per token."""
    theirs, model_type = class_config(config), config["model_type"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(theirs)
    components: dict[str, int] = {}
    idle = 0
    for name, parameter in model.named_parameters():
        component = component_of(name)
        components[component] = components.get(component, 0) + parameter.numel()
        if ".experts." in name:
            # Phi-3.5-MoE's router chooses two, whatever its config says.
            chosen = 2 if model_type == "phimoe" else theirs.num_experts_per_tok
            others = parameter.shape[0] - chosen
            idle += parameter.numel() // parameter.shape[0] * others
    return components, sum(components.values()) - idle


def shrink(draw: Draw | None, config: dict[str, Any]) -> dict[str, Any]:
    """The config with small sizes in place of those that are left to the class, which are large."""
    schema = SCHEMAS[config["model_type"]]
    keys, small = schema.keys, dict(REQUIRED_KEYS.get(config["model_type"], {})) | config
    if keys["dim"] not in config:
        small |= sizes(draw, schema) if draw else {keys["dim"]: 32, keys["n_heads"]: 2}
        if not draw and "num_key_value_heads" in schema.defaults:
            small["num_key_value_heads"] = 2
    if "kv_lora_rank" in schema.defaults:
        small["num_key_value_heads"] = small[keys["n_heads"]]  # the class divides by it, and does not use it
    small |= {
        keys[field]: size for field, size in (("vocab_size", 30), ("context_length", 32)) if field in keys
    }
    for key in ("sliding_window", "window_size"):
        if key in schema.defaults and small.get(key, 1) is not None:
            small[key] = draw(st.integers(1, 9)) if draw else 4
    for key, size in SMALL_SIZES.items():
        if key in schema.defaults:
            small.setdefault(key, size)
    n_experts = next((key for key in EXPERT_COUNTS if key in schema.defaults), None)
    if n_experts and n_experts not in small:
        small |= {n_experts: 4, "num_experts_per_tok": 2}
        small |= {"n_group": 2, "topk_group": 1} if "n_group" in schema.defaults else {}
    return small
