"""A model as the metadata of a GGUF file: of the first architecture of llama.cpp that is it, or refused.

An architecture is taken only if the model that llama.cpp would compute, by `architectures.py`, is this one.
"""

from functools import partial
from math import log
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Attempt, Export, first_equivalent
from parambudget.formats.gguf.architectures import ARCHITECTURES, GGUFArchitecture

GGUFMetadata = dict[str, Any]
"""The keys of a file, without those of its tokenizer."""
_GATES: Final = {"softmax": 1, "sigmoid": 2}
"""llama.cpp's numbers for the function that makes scores of a router's logits."""
_APPROXIMATION: Final = "llama.cpp computes gelu by its tanh approximation, so logits differ slightly"


def to_gguf(model: ModelConfig) -> Export:
    """The metadata of the first architecture that is this model; its name is a key of `ARCHITECTURES`.

    Raises `ConfigError` with what the closest architecture lacks.
    """
    suitable = [name for name, one in ARCHITECTURES.items() if _has_required_blocks(name, one, model)]
    if not suitable:
        raise ConfigError(
            "no architecture of llama.cpp that is written here has latent attention without experts; add "
            "experts or leave kv_lora_rank out"
        )
    return first_equivalent(
        model, [partial(_attempt, name, model) for name in suitable], "no architecture of llama.cpp"
    )


def _has_required_blocks(name: str, one: GGUFArchitecture, m: ModelConfig) -> bool:
    return one.has_experts == (m.moe is not None) and (name == "deepseek2") == (m.mla is not None)


def _attempt(name: str, m: ModelConfig) -> Attempt:
    one = ARCHITECTURES[name]
    read = with_defaults(one.fields(m)).model
    is_approximate = m.activation == "gelu" and one.fixed.get("activation") == "gelu_tanh"
    metadata = gguf_metadata(name, m)
    notes = (_APPROXIMATION,) if is_approximate else ()
    return Attempt(Export(name, metadata, notes, file="model.gguf"), read)


def gguf_metadata(name: str, m: ModelConfig) -> GGUFMetadata:
    """The keys that say to llama.cpp what the model is, for one of the architectures."""
    one, architecture = ARCHITECTURES[name], name.split()[0]
    keys: GGUFMetadata = {
        "context_length": m.context_length,
        "embedding_length": m.dim,
        "block_count": m.n_layers,
        "feed_forward_length": m.intermediate_size,
        "vocab_size": m.vocab_size,
        "attention.head_count": m.n_heads,
        "attention.head_count_kv": m.n_kv_heads,
        "attention.key_length": m.head_dim,
        "attention.value_length": m.head_dim,
        f"attention.layer_norm_{'rms_' if m.norm == 'rmsnorm' else ''}epsilon": m.norm_eps,
    }
    if m.position == "rotary":
        keys |= {"rope.dimension_count": m.rotary_dim, "rope.freq_base": m.rope_theta}
    if m.position == "alibi":
        keys["attention.max_alibi_bias"] = 8.0
    if name == "gptneox":
        keys["use_parallel_residual"] = m.block == "parallel"
    keys |= _function_keys(one, m) | _window_keys(m) | _rescaling_keys(one, m) | _expert_keys(m)
    keys |= _latent_keys(m)
    return {"general.architecture": architecture} | {f"{architecture}.{key}": keys[key] for key in keys}


def _function_keys(one: GGUFArchitecture, m: ModelConfig) -> GGUFMetadata:
    """Multipliers and caps, where the architecture reads them from the file."""
    keys: GGUFMetadata = {}
    if "logit_multiplier" in one.free:
        is_divisor = one.logit_scale == "divisor"
        keys["logit_scale"] = 1 / m.logit_multiplier if is_divisor else m.logit_multiplier
    for field, key in (
        ("embedding_multiplier", "embedding_scale"), ("residual_multiplier", "residual_scale"),
        ("attention_multiplier", "attention.scale"), ("attention_softcap", "attn_logit_softcapping"),
        ("logit_softcap", "final_logit_softcapping"), ("qkv_clip", "attention.clamp_kqv"),
    ):  # fmt: skip
        value = getattr(m, field)
        if field in one.free and value is not None:
            keys[key] = value
    return keys


def _window_keys(m: ModelConfig) -> GGUFMetadata:
    if not m.n_local_layers:
        return {}
    return {
        "attention.sliding_window": m.window,
        "attention.sliding_window_pattern": [m.is_local(layer) for layer in range(m.n_layers)],
        "rope.freq_base_swa": m.rope_theta_local or m.rope_theta,
    }


def _rescaling_keys(one: GGUFArchitecture, m: ModelConfig) -> GGUFMetadata:
    """None for llama3, which is a tensor of divisors."""
    scaling = m.rope_scaling
    if scaling is None or scaling.rope_type not in one.rescales or scaling.rope_type == "llama3":
        return {}
    keys: GGUFMetadata = {"rope.scaling.type": scaling.rope_type, "rope.scaling.factor": scaling.rope_factor}
    if scaling.rope_type == "yarn":
        # llama.cpp multiplies by YaRN's own factor in any case.
        own = 0.1 * log(scaling.rope_factor or 1.0) + 1.0
        keys |= {
            "rope.scaling.original_context_length": scaling.rope_original_context,
            "rope.scaling.attn_factor": m.rotary_scale / own,
            "rope.scaling.yarn_beta_fast": scaling.rope_beta_fast,
            "rope.scaling.yarn_beta_slow": scaling.rope_beta_slow,
        }
    return keys


def _expert_keys(m: ModelConfig) -> GGUFMetadata:
    if m.moe is None:
        return {}
    if m.moe.router_scores not in _GATES:
        raise ConfigError(
            f"router_scores is {m.moe.router_scores!r}, and llama.cpp has {' and '.join(_GATES)}; set one of "
            "these"
        )
    keys: GGUFMetadata = {
        "expert_count": m.moe.n_experts,
        "expert_used_count": m.moe.n_experts_per_token,
        "expert_feed_forward_length": m.moe.expert_intermediate_size,
        "expert_weights_scale": m.moe.routing_multiplier,
        "expert_weights_norm": m.moe.norm_expert_weights,
        "expert_gating_func": _GATES[m.moe.router_scores],
        "expert_shared_count": m.moe.n_shared_experts,
        "leading_dense_block_count": m.moe.n_first_dense,
    }
    if m.moe.shared_expert_width:
        keys["expert_shared_feed_forward_length"] = m.moe.shared_expert_width
    if not m.n_dense_layers:
        # Mixtral's files have no other key for the width of an expert.
        keys["feed_forward_length"] = m.moe.expert_intermediate_size
    return keys


def _latent_keys(m: ModelConfig) -> GGUFMetadata:
    """Latent attention runs as attention with one head of keys and values, which are the latent itself."""
    if m.mla is None:
        return {}
    return {
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": m.mla.q_lora_rank or 0,
        "attention.kv_lora_rank": m.mla.kv_lora_rank,
        "attention.key_length": m.mla.kv_lora_rank + m.mla.qk_rope_head_dim,
        "attention.value_length": m.mla.kv_lora_rank,
        "attention.key_length_mla": m.mla.qk_nope_head_dim + m.mla.qk_rope_head_dim,
        "attention.value_length_mla": m.mla.v_head_dim,
        "rope.dimension_count": m.mla.qk_rope_head_dim,
    }
