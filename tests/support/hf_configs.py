"""Random config.json files of every supported family, and what its class builds of them.

They are drawn from the family's own schema: every key is sometimes present and sometimes left to its default.
"""

import re
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from support import hf_state_spaces
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.schema import ABSENT, NESTED_OBJECTS, TOP_K_KEYS, ConfigSchema

Draw = Callable[[st.SearchStrategy[Any]], Any]

INSTANTIATED_AS = {
    "baichuan": "llama", "chatglm": "glm", "deepseek": "glm4_moe", "internlm2": "llama",
    "kimi_k2": "deepseek_v3", "minicpm": "llama", "mobilellm": "llama", "orion": "stablelm", "qwen": "qwen2",
}  # fmt: skip
"""Types whose class is remote code, and the type of a class that has the same parameters."""
SCHEMAS = {model_type: family.config for model_type, family in FAMILIES.items()}

REQUIRED_KEYS = {
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10_000.0}
            for kind in ("full_attention", "sliding_attention")
        }
    },
    "chatglm": {"multi_query_attention": True},
    "deepseek": {"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2},
    # Its class wants this base and uses another one, and does not run without a clip.
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 2.0}},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "longcat_flash": {"head_dim": 8},  # which it rotates, whatever qk_rope_head_dim says
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 4},
    "qwen3_omni_moe_text": {"num_attention_heads": 16},
    "zamba": {"layers_block_type": ["hybrid", "hybrid"]},  # its class fails with one
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
}
"""Keys that a class of two layers needs, and for which it has no suitable default."""
ALLOWED_VALUES = {
    "interleave_moe_layer_step": (1, 2, 3), "attn_temperature_tuning": (True, False),
    "altup_num_inputs": (1, 2, 4), "altup_active_idx": (0, 1), "num_global_key_value_heads": (None, 1, 2),
    "moe_intermediate_size": (8, 24, 40),
    "decoder_sparse_step": (1, 2, 3), "first_k_dense_replace": (0, 1, 3), "max_window_layers": (0, 1, 4),
    "expert_selection_fn": ("softmax", "sigmoid"), "moe_layer_end_index": (-1, 1),
    "moe_layer_interval": (1, 2), "moe_layer_start_index": (0, 1), "moe_norm_min": (1e-12,),
    "moe_num_shared_experts": (1, 2),
    "ffn_config.ffn_act_fn": (None, {"name": "silu"}),
    "ffn_config.moe_normalize_expert_weights": (None, 1.0),
    "n_shared_experts": (1, 2), "no_rope_layer_interval": (1, 2, 4), "num_ln_in_parallel_attn": (None, 1, 2),
    "gating": (True, "per-head", "per-element"), "num_dense_layers": (0, 1, 3), "moe_layer_freq": (1, 2),
    "global_attn_every_n_layers": (2, 4), "num_shared_experts": (1, 2), "num_key_value_heads": (1,),
    "prefix_dense_sliding_window_pattern": (1, 2), "rms_norm_eps": (1e-5, 0.5),
    "shared_expert_combination_strategy": ("sum", "average"),
    "q_lora_rank": (None, 12, 24), "query_pre_attn_scalar": (64, 144), "rotary_dim": (2, 4, 8),
    "sliding_window_pattern": (1, 2, 4), "topk_method": ("greedy",),
    # Of few heads, several scores may all be 0: which of equal keys is chosen is nobody's choice.
    "index_n_heads": (16, 24), "index_head_dim": (64, 72), "index_topk": (3, 8, 40),
    "hc_mult": (2, 4), "gated_norm_rank": (4, 8), "index_block_size": (2, 4), "index_topk_blocks": (1, 3),
    "index_topk_freq": (0, 1, 2, 3), "index_skip_topk_offset": (1, 2, 3), "index_topk_pattern": (None,),
    "hidden_act": ("silu", "gelu", "relu2", "mish"), "activation_function": ("gelu_new", "gelu", "relu"),
    "activation": ("gelu", "relu"), "afn": ("gelu", "silu"),
    "hidden_activation": ("gelu_pytorch_tanh", "silu"),
    "partial_rotary_factor": (0.3, 0.5, 1.0), "rotary_pct": (0.4, 0.5, 1.0), "swiglu_alpha": (1.702,),
    "qk_nope_head_dim": (8, 16), "qk_rope_head_dim": (4, 8), "use_bidirectional_attention": (None,),
    "no_bias": (True,), "scoring_func": ("softmax",), "sparse_config": (None,), "rope_ratio": (1.0,),
    "layer_group_size": (1, 2, 6), "kda_lower_bound": (-5.0, -0.5),
    "block_ffn_dim_multiplier": (0.5, 1.0, 1.3), "block_multiple_of": (1, 8, 256),
    "full_attn_alpha_factor": (1, 3.5), "full_attn_beta_factor": (1, 0.5),
    "linear_attn_alpha_factor": (1, 3.5), "linear_attn_beta_factor": (1,), "mlp_alpha_factor": (1, 3.5),
    "mlp_beta_factor": (1,), "full_attention_interval": (1, 2, 4),
    "dim_model_base": (None, 16), "scale_depth": (None, 1.4), "scale_emb": (1.0, 12.0),
    **hf_state_spaces.ALLOWED_VALUES,
    "word_embed_proj_dim": (None, 8), "initializer_range": (0.02, 0.1), "init_std": (0.02, 0.1),
}  # fmt: skip
"""The values of keys for which not every number of the right type will do."""
INTERDEPENDENT = {
    "n_group", "topk_group", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
    "moe_layers", "num_kv_shared_layers", "activation_sparsity_pattern", "per_layer_config", "top_k_experts",
    "indexer_types", "moe_layer_freq", "sparse_attention_config", "num_kv_heads", "layer_types",
    "no_rope_layers", "mlp_only_layers", "attention_types",
    "attention_layers",
    "mlp_layer_types", "layer_rope_theta", "rope_parameters.full_attention.rope_theta",
    "rope_parameters.sliding_attention.rope_theta", "num_attention_heads_per_layer", "moe_k",
    "moe_num_experts", "moe_topk", "ffn_config.moe_num_experts", "ffn_config.moe_top_k",
    "attn_config.kv_n_heads", "hidden_size", "linear_num_key_heads", "linear_num_value_heads",
    "linear_key_head_dim", "linear_value_head_dim", "full_attn_idxs", "lru_width", "block_types",
    "linear_attn_config.full_attn_layers", "linear_attn_config.kda_layers",
    "local_partial_rotary_factor",
}  # fmt: skip
"""Keys that must agree with others; they are drawn separately."""
EXPERT_COUNTS = (
    "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "ffn_config.moe_num_experts",
)  # fmt: skip
SMALL_SIZES = {
    "expert_ffn_hidden_size": 24, "zero_expert_num": 2,
    "ffn_config.ffn_hidden_size": 24, "ffn_dim": 24, "ffn_hidden_size": 24, "global_head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "index_head_dim": 8, "index_n_heads": 16, "index_topk": 6,
    "intermediate_size": 24, "intermediate_size_mlp": 24,
    "kv_lora_rank": 24, "laurel_rank": 8, "moe_intermediate_size": 24, "n_inner": 24, "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8, "rotary_dim": 4, "shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24, "v_head_dim": 24, "vocab_size_per_layer_input": 30,
}  # fmt: skip
MIXER_SIZES = {
    "linear_head_dim": 8, "linear_num_heads": 2, "attention_window_size": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
}  # fmt: skip
"""Small sizes of mixers other than attention."""
SMALL_SIZES |= MIXER_SIZES | hf_state_spaces.SMALL_SIZES
INTERDEPENDENT |= hf_state_spaces.INTERDEPENDENT
FROM_TWO_LAYERS = ("olmo_hybrid", "rwkv")
"""Types whose classes cannot be built with one layer."""
THETAS = st.sampled_from([500.0, 5000.0])
SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "tied")


@st.composite
def configs(draw: Draw, model_type: str) -> dict[str, Any]:
    """A small config.json of the type, with many keys left to the class's defaults."""
    schema = SCHEMAS[model_type]
    n_layers = draw(st.integers(2 if model_type in FROM_TWO_LAYERS else 1, 4))
    config = {"model_type": model_type, schema.keys["n_layers"]: n_layers} | REQUIRED_KEYS.get(model_type, {})
    if draw(st.booleans()):
        config |= sizes(draw, schema)
    placed = {schema.keys[field] for field in SIZES if field in schema.keys}
    for key in sorted(schema.defaults.keys() - placed - INTERDEPENDENT - schema.required_values.keys()):
        if draw(st.booleans()):
            config[key] = draw(value_of(key, schema))
    if "tie_word_embeddings" not in schema.required_values and draw(st.booleans()):
        config["tie_word_embeddings"] = draw(st.booleans())
    if model_type in ("bitnet", "olmoe") or (model_type == "phi" and config.get("qk_layernorm")):
        config.pop("head_dim", None)  # their norms are as wide as heads that fill the width
    if model_type in ("helium", "qwen") and schema.keys["dim"] in config:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]  # as its projection needs
    if model_type == "internlm3":
        config["mlp_bias"] = config["attention_bias"] = draw(st.booleans())  # its class refuses other pairs
    if model_type == "cohere2_moe":  # its class refuses more dense layers than there are layers
        config["first_k_dense_replace"] = min(n_layers, config.get("first_k_dense_replace", 0))
    config |= experts(draw, schema) | lists(draw, schema, n_layers) | rotations(draw, schema)
    dim = config.get(schema.keys["dim"], schema.defaults[schema.keys["dim"]])
    config |= hf_state_spaces.agreeing_keys(draw, schema, n_layers, dim)
    return nest(config)


def nest(config: dict[str, Any]) -> dict[str, Any]:
    """The config with keys such as attn_config.clip_qkv in their objects."""
    nested = {key: value for key, value in config.items() if "." not in key}
    for outer in NESTED_OBJECTS:
        own = {key.partition(".")[2]: config[key] for key in config if key.startswith(f"{outer}.")}
        if own:
            nested[outer] = nested.get(outer, {}) | own
    return nested


def sizes(draw: Draw, schema: ConfigSchema) -> dict[str, Any]:
    """Width and heads that agree; heads need not fill the width where the class lets them."""
    keys, heads = schema.keys, draw(st.sampled_from([2, 4, 6]))
    config = {keys["dim"]: heads * draw(st.sampled_from([8, 16]))}
    if "n_heads" in keys:
        config[keys["n_heads"]] = heads
    if keys.get("n_kv_heads") == "num_key_value_heads":
        takes_null = schema.defaults["num_key_value_heads"] is None and schema is not SCHEMAS["nemotron"]
        fewer = [2] if schema is SCHEMAS["diffllama"] else [1, 2]
        config["num_key_value_heads"] = draw(st.sampled_from([*fewer, heads] + [None] * takes_null))
    if "sliding_window_size" in schema.defaults:
        config["num_key_value_heads"] = 1  # MiMo doubles them in local layers
    if "num_kv_heads" in schema.defaults:
        config["num_kv_heads"] = draw(st.sampled_from([None, 1, 2]))
    if "attn_config.kv_n_heads" in schema.defaults:
        config["attn_config.kv_n_heads"] = draw(st.sampled_from([1, 2]))
    if "head_dim" in keys and draw(st.booleans()):
        config["head_dim"] = draw(st.sampled_from([8, 16]))
    return config


def value_of(key: str, schema: ConfigSchema) -> st.SearchStrategy[Any]:
    default = schema.defaults[key]
    if key in ALLOWED_VALUES:
        takes_null = default is None or key in schema.nullable
        return st.sampled_from([v for v in ALLOWED_VALUES[key] if v is not None or takes_null])
    values = {
        bool: st.booleans(),
        int: st.sampled_from([8, 24, 40]),
        float: st.sampled_from([0.25, 0.5, 2.0]),
    }[schema.accepted_types(key)[0]]
    return st.none() | values if default is None else values


def experts(draw: Draw, schema: ConfigSchema) -> dict[str, Any]:
    """Experts, groups that divide them, and no more per token than the groups hold."""
    key = next((key for key in EXPERT_COUNTS if key in schema.defaults), "")
    if not key or key in schema.required_values:
        return {}
    top_k = top_k_key(schema)
    if schema.defaults[top_k] is not None and draw(st.booleans()):
        return {}
    n_groups = draw(st.integers(1, 2)) if "n_group" in schema.defaults else 1
    best = draw(st.integers(1, n_groups))
    of_group = draw(st.integers(2, 3))
    chosen = {key: n_groups * of_group, top_k: draw(st.integers(1, best * of_group))}
    return chosen | ({"n_group": n_groups, "topk_group": best} if "n_group" in schema.defaults else {})


def top_k_key(schema: ConfigSchema) -> str:
    """The class's key for the number of experts per token."""
    return next(key for key in TOP_K_KEYS if key in schema.defaults)


def lists(draw: Draw, schema: ConfigSchema, n_layers: int) -> dict[str, Any]:
    """One entry per layer, where the class has such lists."""
    choices = {
        "layer_types": layer_words(schema), "no_rope_layers": (0, 1),
        "mlp_layer_types": ("dense", "sparse"), "layer_rope_theta": (0, 500.0),
    }  # fmt: skip
    config = {}
    for key, choice in choices.items():
        if key in schema.defaults.keys() - schema.required_values.keys() and draw(st.booleans()):
            config[key] = draw(st.lists(st.sampled_from(choice), min_size=n_layers, max_size=n_layers))
    if "indexer_types" in schema.defaults and draw(st.booleans()):
        config["indexer_types"] = [
            "full",
            *draw(
                st.lists(st.sampled_from(("full", "shared")), min_size=n_layers - 1, max_size=n_layers - 1)
            ),
        ]
        if draw(st.booleans()):
            config["index_topk_pattern"] = "".join(
                "FS"[word == "shared"] for word in config.pop("indexer_types")
            )
    if "sparse_attention_config" in schema.defaults:
        uses = draw(st.lists(st.sampled_from((0, 1)), min_size=n_layers, max_size=n_layers))
        if "layer_types" in config:
            config["layer_types"] = ["minimax_m3_sparse" if use else "full_attention" for use in uses]
        else:
            config["sparse_attention_config"] = {"sparse_attention_freq": uses, "sparse_num_index_heads": 2}
        if "mlp_layer_types" not in config:
            config["moe_layer_freq"] = uses
    if "attention_chunk_size" in schema.defaults:
        choices = ("chunked_attention", "full_attention")
        if "layer_types" in config:
            config["layer_types"] = draw(
                st.lists(st.sampled_from(choices), min_size=n_layers, max_size=n_layers)
            )
        config["moe_layers"] = draw(st.none() | st.lists(st.integers(0, n_layers), max_size=n_layers))
    if "mlp_only_layers" in schema.defaults and draw(st.booleans()):
        config["mlp_only_layers"] = draw(st.none() | st.lists(st.integers(0, n_layers), max_size=n_layers))
    if "num_kv_shared_layers" in schema.defaults:
        config["num_kv_shared_layers"] = draw(st.sampled_from(shareable(config, schema, n_layers)))
    config |= mixers(draw, schema, n_layers)
    if "attention_types" in schema.defaults:
        words = draw(st.lists(st.sampled_from(("global", "local")), min_size=n_layers, max_size=n_layers))
        config["attention_types"] = [[words, 1]]
    return config


def mixers(draw: Draw, schema: ConfigSchema, n_layers: int) -> dict[str, Any]:
    """Sizes of mixers that must agree, and which layers have them where that has a list of its own."""
    config: dict[str, Any] = {}
    if "linear_num_key_heads" in schema.defaults and draw(st.booleans()):
        keys = draw(st.sampled_from([1, 2]))
        config |= {
            "linear_num_key_heads": keys, "linear_num_value_heads": keys * draw(st.integers(1, 2)),
            "linear_key_head_dim": draw(st.sampled_from([4, 8])),
            "linear_value_head_dim": draw(st.sampled_from([8, 16])),
        }  # fmt: skip
    layers = st.lists(st.integers(0, n_layers - 1), unique=True)
    if "full_attn_idxs" in schema.defaults:
        config["full_attn_idxs"] = draw(st.none() | layers)
    if "use_expert_bias" in schema.defaults:  # it does not run without the list
        words = st.sampled_from(("conv", "full_attention"))
        config["layer_types"] = draw(st.lists(words, min_size=n_layers, max_size=n_layers))
    if "linear_allow_neg_eigval" in schema.defaults:  # it refuses layers of one kind
        words = draw(st.permutations(("linear_attention", "full_attention")))
        config["layer_types"] = [words[at % 2] for at in range(n_layers)]
    if "linear_attn_config.kda_layers" in schema.defaults and draw(st.booleans()):
        attends = [at + 1 for at in draw(layers)]
        others = [at for at in range(1, n_layers + 1) if at not in attends]
        config["linear_attn_config.full_attn_layers"] = attends
        config["linear_attn_config.kda_layers"] = others
    if "block_types" in schema.defaults and draw(st.booleans()):
        kinds = st.sampled_from(("recurrent", "attention"))
        config["block_types"] = draw(st.lists(kinds, min_size=1, max_size=3))
    return config


def layer_words(schema: ConfigSchema) -> tuple[str, ...]:
    """The words for the mixer of a layer."""
    if "use_attention_gate" in schema.defaults:
        return ("conv", "sliding_attention", "full_attention")
    if "mamba_n_heads" in schema.defaults:
        return ("linear_attention", "full_attention", "mamba", "attention")
    mixers = {
        "kda_safe_gate": "linear_attention", "linear_conv_kernel_dim": "linear_attention",
        "full_attn_alpha_factor": "linear_attention",
        "conv_L_cache": "conv",
    }  # fmt: skip
    other = next((word for key, word in mixers.items() if key in schema.defaults), "sliding_attention")
    return (other, "full_attention")


def shareable(config: dict[str, Any], schema: ConfigSchema, n_layers: int) -> list[int]:
    """Numbers of last layers that find keys of their own kind before them."""
    is_gemma3n = "altup_num_inputs" in schema.defaults
    period = 5 if is_gemma3n else 6
    types = config.get("layer_types") or [(at + 1) % period == 0 for at in range(n_layers)]
    if not is_gemma3n:  # the last layer of Gemma 4 has no window, whatever the list says
        types = [*types[:-1], "full_attention" if "layer_types" in config else True]
    return [n for n in range(n_layers) if {*types[: n_layers - n]} == {*types}]


def rotations(draw: Draw, schema: ConfigSchema) -> dict[str, Any]:
    """Rotary parameters under either key, or both; Gemma 3 has one object for each layer type."""
    if "rope_theta" not in schema.keys:
        return {}
    theta = st.fixed_dictionaries({"rope_type": st.just("default")}, optional={"rope_theta": THETAS})
    by_layer_type = st.fixed_dictionaries({"full_attention": theta}, optional={"sliding_attention": theta})
    if schema is SCHEMAS["cohere2_moe"]:  # it does not complete an object without a base
        theta = st.fixed_dictionaries({"rope_type": st.just("default"), "rope_theta": THETAS})
    if schema.rope_only_in_objects or schema.rescales_local_layers:
        theta = st.fixed_dictionaries({"rope_type": st.just("default"), "rope_theta": THETAS})
        by_layer_type = st.fixed_dictionaries({"full_attention": theta, "sliding_attention": theta})
    objects = {
        "rope_parameters": by_layer_type if "rope_theta_local" in schema.keys else theta,
        **({} if schema.rope_only_in_objects else {"rope_scaling": theta}),
    }
    return {key: draw(one) for key, one in objects.items() if draw(st.booleans())}


COMPONENTS = (
    (r"^rwkv\.blocks\.\d+\.attention\.", "mixer"),
    (r"(attn|ffn)_hc\.|hc_head", "router"),
    (r"linear_attn\.(?!o?_?norm)", "mixer"),
    (r"(mamba|mixer)\.(in_proj|conv1d|[xd]t?_proj|dt_bias|A_log|D$|out_proj)", "mixer"),
    (r"lm_head|embed_out|output_projection|^(decoder|head)\.", "lm_head"),
    (r"norm_attn_norm\.attn|self_attention\.experts\.(input|output|bias)", "attention"),
    (r"norm|\bln(_|\d\.)|pre_ln|correct_output_scale|_residual$", "norm"),
    (r"altup_|per_layer_(model|input|projection)", "embedding_projection"),
    (r"wpe|embed_positions|positions_embed", "position_embedding"),
    (r"project_(in|out)", "embedding_projection"),
    (r"router|shared_expert_gate|(mlp|feed_forward|mixer)\.gate\.|mlp\.expert_bias|altup\.", "router"),
    (r"mlp|moe|ffn|fc[12]|experts|feed_forward|laurel|mixer\.(up|down)_proj|\d\.linear\.", "ffn"),
    (r"attn|attention|temporal_block|mixer\.[qkvo]_proj", "attention"),
    (r"wte|embed|transformer\.w\b", "token_embedding"),
)


ROUTED = re.compile(r"\.experts\.(?!bias|router)|\.mlp\.(in|out)put_linear")
"""Tensors of which a token uses those of its own experts; JetMoE's attention has some too."""


def component_of(name: str) -> str:
    """Our component of a parameter of a Hugging Face model, by its name."""
    return next(component for pattern, component in COMPONENTS if re.search(pattern, name))


CONSTANT = re.compile(r"\.(slope_rate|(query|key|diagonal)_decay)$")
"""Buffers that follow from the config: MiniMax's."""
MIXER = re.compile(r"layers\.(\d+)\.(linear_attn|self_attn|temporal_block|conv)\.(?!.*norm)")
MIXER_WORDS = ("linear_attention", "conv")


def in_mixer(name: str, theirs: PreTrainedConfig) -> bool:
    """Whether a parameter is of a mixer other than attention, which some classes name like attention."""
    found = MIXER.search(name)
    words = getattr(theirs, "layer_types", None)
    return found is not None and words is not None and words[int(found[1])] in MIXER_WORDS


OF_REMOTE_CODE = {
    "deepseek": {"use_qk_norm": False, "n_group": 1, "topk_group": 1},
    "orion": {"use_qkv_bias": False},
    "qwen": {"num_key_value_heads": None},
}
"""What the class in transformers needs besides to have the parameters of the remote code."""


def class_config(config: dict[str, Any]) -> PreTrainedConfig:
    """The class's own config."""
    model_type = config["model_type"]
    keywords = {key: value for key, value in config.items() if key != "model_type"} | {"pad_token_id": None}
    if model_type == "modernbert-decoder":
        keywords["pad_token_id"] = 0  # its class accepts no null
    if model_type in INSTANTIATED_AS:
        own = {key: value for key, value in SCHEMAS[model_type].defaults.items() if value is not ABSENT}
        keywords = own | keywords | OF_REMOTE_CODE.get(model_type, {})
    if model_type == "qwen":
        keywords["intermediate_size"] //= 2
    if model_type == "mobilellm":
        keywords["tie_word_embeddings"] = keywords.pop("share_embedding", False) or keywords.get(
            "tie_word_embeddings", False
        )
    return AutoConfig.for_model(INSTANTIATED_AS.get(model_type, model_type), **keywords)


TEXT_MODELS = {
    "glm4v_moe_text": ("glm4v_moe", "Glm4vMoeTextModel"),
    "glm4v_text": ("glm4v", "Glm4vTextModel"),
    "glm_ocr_text": ("glm_ocr", "GlmOcrTextModel"),
    "granite4_vision_text": ("granite4_vision", "Granite4VisionTextModel"),
    "granite_docling_text": ("granite_docling", "GraniteDoclingTextModel"),
    "paddleocr_vl_text": ("paddleocr_vl", "PaddleOCRTextModel"),
    "qwen2_5_omni_text": ("qwen2_5_omni", "Qwen2_5OmniThinkerTextModel"),
    "qwen2_5_vl_text": ("qwen2_5_vl", "Qwen2_5_VLTextModel"),
    "qwen2_vl_text": ("qwen2_vl", "Qwen2VLTextModel"),
    "qwen3_omni_moe_text": ("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel"),
    "qwen3_vl_moe_text": ("qwen3_vl_moe", "Qwen3VLMoeTextModel"),
    "qwen3_vl_text": ("qwen3_vl", "Qwen3VLTextModel"),
}
"""The language models of image-text and omni models: the module of transformers, and the class in it."""


class TextPart(torch.nn.Module):
    """The language model of an image-text class, which has none with a head: its own, and a head.

    Its positions in three dimensions, the same for text, are split as the config says; a random config does
    not, so they are split in three.
    """

    def __init__(self, config: PreTrainedConfig, **implementation: str) -> None:
        super().__init__()
        self.config = config
        module, name = TEXT_MODELS[config.model_type]
        model_class = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), name)
        self.model = model_class._from_config(config, **implementation)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if getattr(config, "tie_word_embeddings", False):
            self.lm_head.weight = self.model.get_input_embeddings().weight
        for module in self.modules():
            if hasattr(module, "mrope_section"):
                size = module.inv_freq.numel()
                module.mrope_section = [size - 2 * (size // 3), size // 3, size // 3]

    def forward(self, tokens: torch.Tensor) -> SimpleNamespace:
        hidden = self.model(tokens, use_cache=False).last_hidden_state
        return SimpleNamespace(logits=self.lm_head(hidden) / getattr(self.config, "logits_scaling", 1))


def build_class(config: PreTrainedConfig, **implementation: str) -> torch.nn.Module:
    """The language model of a class's config, of its own class where that has a head.

    Without a cache: it fails in models that have attention in no layer.
    """
    config.use_cache = False
    if config.model_type in TEXT_MODELS:
        return TextPart(config, **implementation)
    return AutoModelForCausalLM.from_config(config, **implementation)


def class_counts(config: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Parameters of the class's own model by component, shared ones once, and those active per token."""
    theirs = class_config(config)
    with torch.device("meta"):
        model = build_class(theirs)
    components: dict[str, int] = {}
    idle = 0
    for name, parameter in model.named_parameters():
        component = "mixer" if in_mixer(name, theirs) else component_of(name)
        components[component] = components.get(component, 0) + parameter.numel()
        if ROUTED.search(name):
            n_experts, chosen = experts_of(theirs)
            # LongCat's has matrices of experts that have none to multiply with.
            n_experts = len(parameter) if theirs.model_type == "longcat_flash" else n_experts
            idle += parameter.numel() // n_experts * (n_experts - chosen)
    return components, sum(components.values()) - idle


def experts_of(theirs: PreTrainedConfig) -> tuple[int, int]:
    """How many experts a layer of the class has, and how many of them a token uses."""
    if theirs.model_type == "dbrx":
        return theirs.ffn_config.moe_num_experts, theirs.ffn_config.moe_top_k
    n_experts = next(getattr(theirs, key) for key in EXPERT_COUNTS if hasattr(theirs, key))
    if theirs.model_type == "phimoe":
        return n_experts, 2  # whatever its config says
    return n_experts, next(getattr(theirs, key) for key in TOP_K_KEYS if hasattr(theirs, key))


def shrink(draw: Draw | None, config: dict[str, Any]) -> dict[str, Any]:
    """The config with small sizes in place of those that are left to the class, which are large."""
    schema = SCHEMAS[config["model_type"]]
    keys, small = schema.keys, dict(REQUIRED_KEYS.get(config["model_type"], {})) | flat(config)
    if keys["dim"] not in config:
        small |= sizes(draw, schema) if draw else {keys["dim"]: 32}
        small |= {keys["n_heads"]: 2} if "n_heads" in keys and not draw else {}
        if not draw and "num_key_value_heads" in schema.defaults:
            small["num_key_value_heads"] = 2
    if "sliding_window_size" in schema.defaults:
        small["num_key_value_heads"] = 1  # local layers of MiMo have twice as many
    if "vocab_size_per_layer_input" in schema.defaults:
        small["vocab_size_per_layer_input"] = 30  # Gemma 4 looks up every token
    if config["model_type"] in ("helium", "qwen"):
        small["head_dim"] = small["hidden_size"] // small["num_attention_heads"]
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
    small |= hf_state_spaces.small_chunks(schema)
    if "num_heads" in schema.defaults:
        small["num_heads"] = 4
        small["head_dim"] = small.get("expand", 2) * small[keys["dim"]] // 4
    n_experts = next((key for key in EXPERT_COUNTS if key in schema.defaults), None)
    if n_experts and n_experts not in small and n_experts not in schema.required_values:
        small |= {n_experts: 4, top_k_key(schema): 2}
        small |= {"n_group": 2, "topk_group": 1} if "n_group" in schema.defaults else {}
    return nest(small)


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the keys of its objects as keys such as attn_config.clip_qkv."""
    whole = dict(config)
    for outer in NESTED_OBJECTS:
        whole |= {f"{outer}.{key}": value for key, value in (whole.pop(outer, None) or {}).items()}
    return whole
