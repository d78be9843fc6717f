"""A model as a Hugging Face config.json: the plainest class that is the model, or refused with the reason.

The tables of `read` are turned round, and what comes out is read again by it: a class is taken exactly when
that gives the same model. So there is one source of truth, and a wrong key can refuse, but not mislead.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.defaults import with_defaults
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Attempt, Export, chosen
from parambudget.formats.hf.importer import FAMILIES, from_hf
from parambudget.formats.hf.schema import ABSENT, Family

Key = Callable[[ModelConfig], Any]
"""From a model to the value of a key; None: the key is null where the class takes that, and else left out."""

_ACTIVATIONS: Final = {"gelu_tanh": "gelu_pytorch_tanh"}
"""Names of the classes for functions that we call otherwise."""


def activation(m: ModelConfig) -> str:
    """The function's name in the classes."""
    return _ACTIVATIONS.get(m.activation, m.activation)


def of_experts(name: str) -> Key:
    """A field of the experts, if there are any."""
    return lambda m: getattr(m.moe, name, None)


def of_latents(name: str) -> Key:
    """A field of latent attention."""
    return lambda m: getattr(m.mla, name)


def scale(m: ModelConfig) -> float:
    """The scale of the attention scores, whether it was said or not."""
    return m.head_dim**-0.5 if m.attention_multiplier is None else m.attention_multiplier


def layer_types(m: ModelConfig) -> list[str]:
    """Which layers have the window."""
    return ["sliding_attention" if m.is_local(layer) else "full_attention" for layer in range(m.n_layers)]


def shared_width(m: ModelConfig) -> int:
    """Width of all shared experts together."""
    if m.moe is None:
        return 0
    return m.moe.shared_expert_width


def _n_shared(m: ModelConfig) -> int | None:
    """Shared experts as if each were as wide as a routed one."""
    return shared_width(m) // m.moe.expert_intermediate_size if m.moe else None


def _n_first_dense(m: ModelConfig) -> int:
    return next((layer for layer in range(m.n_layers) if m.has_experts(layer)), m.n_layers)


def _alternating(m: ModelConfig) -> list[Any]:
    kinds = ["local" if m.is_local(layer) else "global" for layer in range(m.n_layers)]
    period = len(m.window_pattern) if m.window else 1
    return [[kinds[:period], m.n_layers // period]] if m.n_layers % period == 0 else [[kinds, 1]]


def _falcon_norms(m: ModelConfig) -> int | None:
    return {"parallel": 2, "parallel_shared_norm": 1}.get(m.block)


def _afn(m: ModelConfig) -> str:
    return {"gelu_tanh": "gelu", "gelu": "exact gelu"}.get(m.activation, m.activation)


KEYS: Final[Mapping[str, Key]] = {
    # Biases
    "attention_bias": lambda m: m.qkv_bias, "attention_out_bias": lambda m: m.attention_out_bias,
    "mlp_bias": lambda m: m.ffn_bias, "bias": lambda m: m.qkv_bias,
    "use_bias": lambda m: m.qkv_bias, "enable_bias": lambda m: m.qkv_bias,
    # Norms and the order of things
    "use_qk_norm": lambda m: m.qk_norm != "none", "qk_layernorm": lambda m: m.qk_norm != "none",
    "use_parallel_residual": lambda m: m.block != "sequential",
    "parallel_attn": lambda m: m.block != "sequential", "num_ln_in_parallel_attn": _falcon_norms,
    "do_layer_norm_before": lambda m: m.norm_placement == "pre",
    "_remove_final_layer_norm": lambda m: m.norm_placement == "pre" and not m.final_norm,
    "layer_norm_elementwise_affine": lambda m: m.norm_weight,
    # Heads and scores
    "num_kv_heads": lambda m: m.n_kv_heads, "multi_query": lambda m: m.n_kv_heads == 1,
    "new_decoder_architecture": lambda m: m.n_kv_heads not in (1, m.n_heads) or m.block == "parallel",
    "query_pre_attn_scalar": lambda m: round(scale(m) ** -2), "attention_multiplier": scale,
    "scale_attn_weights": lambda m: m.attention_multiplier != 1,
    "attn_config.clip_qkv": lambda m: m.qkv_clip,
    "attn_config.softmax_scale": lambda m: m.attention_multiplier,
    "q_lora_rank": of_latents("q_lora_rank"), "kv_lora_rank": of_latents("kv_lora_rank"),
    "qk_nope_head_dim": of_latents("qk_nope_head_dim"), "qk_rope_head_dim": of_latents("qk_rope_head_dim"),
    "v_head_dim": of_latents("v_head_dim"),
    # Positions and windows
    "alibi": lambda m: m.position == "alibi", "rotary_dim": lambda m: m.rotary_dim,
    "rope_interleave": lambda m: m.rotary_interleaved,
    "no_rope_layers": lambda m: [int(m.rotates(layer)) for layer in range(m.n_layers)],
    "sliding_window": lambda m: m.window, "use_sliding_window": lambda m: m.n_local_layers > 0,
    "layer_types": layer_types, "window_size": lambda m: m.window, "attention_types": _alternating,
    # Multipliers and widths
    "embedding_multiplier": lambda m: m.embedding_multiplier,
    "residual_multiplier": lambda m: m.residual_multiplier,
    "logits_scaling": lambda m: 1 / m.logit_multiplier,
    "word_embed_proj_dim": lambda m: m.embedding_width, "afn": _afn,
    "ffn_hidden_size": lambda m: m.intermediate_size,
    # Experts; a class that has nothing else calls their width intermediate_size
    "intermediate_size": of_experts("expert_intermediate_size"),
    "moe_intermediate_size": of_experts("expert_intermediate_size"),
    "num_local_experts": of_experts("n_experts"), "num_experts": of_experts("n_experts"),
    "n_routed_experts": of_experts("n_experts"), "num_experts_per_tok": of_experts("n_experts_per_token"),
    "norm_topk_prob": of_experts("norm_expert_weights"), "decoder_sparse_step": lambda _: 1,
    "mlp_only_layers": lambda m: [layer for layer in range(m.n_layers) if not m.has_experts(layer)],
    "first_k_dense_replace": _n_first_dense, "n_shared_experts": _n_shared,
    "shared_expert_intermediate_size": shared_width,
    "routed_scaling_factor": of_experts("routing_multiplier"), "n_group": of_experts("n_expert_groups"),
    "topk_group": of_experts("n_groups_per_token"),
    "topk_method": lambda m: "group_limited_greedy" if m.moe and m.moe.n_expert_groups > 1 else "greedy",
}  # fmt: skip
"""Keys that are not one of our fields taken as it is, and what the model says under them."""


CLASSES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM",
    "olmo2": "Olmo2ForCausalLM", "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM", "phi": "PhiForCausalLM",
    "gpt_neo": "GPTNeoForCausalLM", "gptj": "GPTJForCausalLM", "opt": "OPTForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM", "falcon": "FalconForCausalLM", "bloom": "BloomForCausalLM",
    "mpt": "MptForCausalLM", "gpt_bigcode": "GPTBigCodeForCausalLM",
    "stablelm": "StableLmForCausalLM", "smollm3": "SmolLM3ForCausalLM", "olmo": "OlmoForCausalLM",
    "cohere": "CohereForCausalLM", "cohere2": "Cohere2ForCausalLM", "granite": "GraniteForCausalLM",
    "glm": "GlmForCausalLM", "glm4": "Glm4ForCausalLM", "nemotron": "NemotronForCausalLM",
    "arcee": "ArceeForCausalLM", "seed_oss": "SeedOssForCausalLM",
    "codegen": "CodeGenForCausalLM", "openai-gpt": "OpenAIGPTLMHeadModel", "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM", "olmoe": "OlmoeForCausalLM", "gpt_oss": "GptOssForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM", "phimoe": "PhimoeForCausalLM",
}  # fmt: skip
"""Types and their classes in the order in which they are tried: plain and widely supported ones first.

Source: `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` of transformers 5.24.
"""
NO_DROPOUT: Final[Mapping[str, tuple[str, ...]]] = {
    "gpt2": ("attn_pdrop", "embd_pdrop", "resid_pdrop"), "opt": ("dropout",),
    "gpt_bigcode": ("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    "openai-gpt": ("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    "seed_oss": ("attention_dropout", "residual_dropout"),
}  # fmt: skip
"""Keys of dropout that the class would otherwise have at 0.1: a `ModelConfig` has none."""
_HEADS_OF_LATENTS: Final = ("deepseek_v2", "deepseek_v3")
"""Classes that divide heads by a number of key/value heads that they do not otherwise use."""


def to_hf(model: ModelConfig, kind: str | None = None) -> Export:
    """The config.json of the first class that is this model, or of the `kind` asked for.

    What a class computes beyond the model is a note. Raises `ConfigError` with what the nearest class lacks.
    """
    if kind is not None and kind not in CLASSES:
        raise ConfigError(f"{kind!r} is no class to export to; use one of {', '.join(CLASSES)}")
    kinds = CLASSES if kind is None else (kind,)
    able = [one for one in kinds if _has_the_blocks(FAMILIES[one], model)]
    if not able:
        raise ConfigError(
            f"{kind} is a class with {_blocks_of(FAMILIES[str(kind)])}, and this model has none; use another"
        )
    told = "no class of transformers" if kind is None else f"no form of {kind}"
    return chosen(model, [partial(_attempt, one, model) for one in able], told)


def _has_the_blocks(family: Family, model: ModelConfig) -> bool:
    """Whether the class's keys for experts and latents have anything to say; where it has dense layers too,
    experts may be in none."""
    if "kv_lora_rank" in family.defaults and model.mla is None:
        return False
    only_experts = "num_experts_per_tok" in family.defaults and "intermediate_size" not in family.keys
    return model.moe is not None or not only_experts


def _blocks_of(family: Family) -> str:
    return "latent attention" if "kv_lora_rank" in family.defaults else "experts"


def _attempt(kind: str, model: ModelConfig) -> Attempt:
    document = _written(kind, FAMILIES[kind], model)
    imported = from_hf(document, kind)
    said = (
        f"{CLASSES[kind]} has the same count, but computes {', '.join(imported.unsaid)}: a model with other "
        "logits",
    )
    export = Export(kind, document, said if imported.unsaid else (), imported.unsaid)
    return Attempt(export, with_defaults(imported.fields).model)


def _written(kind: str, family: Family, model: ModelConfig) -> dict[str, Any]:
    """The class's keys with what the model says under them."""
    own = flat_fields(model)
    said = {key: own.get(field) for field, key in family.keys.items()}
    if "activation" in family.keys:
        said[family.keys["activation"]] = activation(model)
    if family.keys.get("rope_theta_local"):
        said[family.keys["rope_theta_local"]] = model.rope_theta_local or model.rope_theta
    said |= {key: KEYS[key](model) for key in family.defaults if key in KEYS and key not in said}
    document = {key: value for key, value in said.items() if value is not None or _takes_null(family, key)}
    if document.get("use_sliding_window") is False:
        for key in ("layer_types", "sliding_window"):
            document.pop(key, None)
    if family.usual_rotation:
        document["rope_parameters"] = {"rope_type": "default", "rope_theta": document.pop("rope_theta")}
    if kind in _HEADS_OF_LATENTS and model.mla:
        document |= {"num_key_value_heads": model.n_heads, "head_dim": model.mla.qk_rope_head_dim}
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        **_in_objects(document),
        **dict.fromkeys(NO_DROPOUT.get(kind, ()), 0.0),
        # Of a tokenizer that there is not: some classes' own would be outside of a small vocabulary.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }


def _takes_null(family: Family, key: str) -> bool:
    default = family.defaults.get(key, ABSENT)
    return default is None or key in family.nullable


def _in_objects(document: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of an object within the config put into it."""
    whole: dict[str, Any] = {}
    for key, value in document.items():
        outer, _, inner = key.partition(".")
        if inner:
            whole.setdefault(outer, {})[inner] = value
        else:
            whole[key] = value
    return whole
