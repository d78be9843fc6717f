"""Architectures that differ in what a query sees and how positions enter, as Hugging Face names them."""

import transformers as hf
from families import Family, config
from families_of_experts import every_layer

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import preset


def windows(m: ModelConfig) -> dict[str, object]:
    kinds = {True: "sliding_attention", False: "full_attention"}
    return {
        "sliding_window": m.window,
        "layer_types": [kinds[m.is_local(layer)] for layer in range(m.n_layers)],
    }


def gemma(config_class: type[hf.PreTrainedConfig], m: ModelConfig) -> hf.PreTrainedConfig:
    """Gemma 2 and 3. Only their attention that is written out caps the scores."""
    words = {
        "rms_norm_eps": m.norm_eps,
        "query_pre_attn_scalar": round((m.attention_multiplier or m.head_dim**-0.5) ** -2),
        "final_logit_softcapping": m.logit_softcap,
        "attn_logit_softcapping": m.attention_softcap,
        "attn_implementation": "eager",
    }
    made = config(config_class, m, **words | windows(m))
    if m.rope_theta_local is not None:
        made.rope_parameters = {
            "full_attention": {"rope_type": "default", "rope_theta": m.rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": m.rope_theta_local},
        }
    return made


def gpt_oss(m: ModelConfig) -> hf.PreTrainedConfig:
    more = {"swiglu_limit": m.ffn_clamp, "attn_implementation": "eager"} | windows(m)
    return every_layer(hf.GptOssConfig, **more)(m)


FAMILIES_BY_POSITION = {
    "mistral": Family(
        hf.MistralForCausalLM,
        lambda m: config(hf.MistralConfig, m, rms_norm_eps=m.norm_eps, sliding_window=m.window),
        preset("mistral-7b-v0.1"),
        ("mistral-7b-v0.1", "mistral-nemo-12b"),
        grouped=True,
    ),
    "gemma2": Family(
        hf.Gemma2ForCausalLM,
        lambda m: gemma(hf.Gemma2Config, m),
        preset("gemma-2-2b"),
        ("gemma-2-2b", "gemma-2-9b", "gemma-2-27b"),
        grouped=True,
    ),
    "gemma3": Family(
        hf.Gemma3ForCausalLM,
        lambda m: gemma(hf.Gemma3TextConfig, m),
        preset("gemma-3-1b"),
        ("gemma-3-270m", "gemma-3-1b"),
        grouped=True,
    ),
    "gpt_oss": Family(
        hf.GptOssForCausalLM,
        gpt_oss,
        preset("gpt-oss-20b").replace(fused_experts=True),
        ("gpt-oss-20b",),
        grouped=True,
    ),
    "smollm3": Family(
        hf.SmolLM3ForCausalLM,
        lambda m: config(
            hf.SmolLM3Config,
            m,
            rms_norm_eps=m.norm_eps,
            no_rope_layers=[int(m.rotates(layer)) for layer in range(m.n_layers)],
        ),
        preset("smollm3-3b"),
        ("smollm3-3b",),
        grouped=True,
    ),
    "cohere": Family(
        hf.CohereForCausalLM,
        lambda m: config(
            hf.CohereConfig,
            m,
            layer_norm_eps=m.norm_eps,
            logit_scale=m.logit_multiplier,
            use_qk_norm=m.qk_norm == "per_head",
        ),
        preset("command-r-plus"),
        ("command-r-plus",),
    ),
    "glm4": Family(
        hf.Glm4ForCausalLM,
        lambda m: config(hf.Glm4Config, m, rms_norm_eps=m.norm_eps, attention_bias=m.qkv_bias),
        preset("glm-4-9b-0414"),
        ("glm-4-9b-0414",),
        grouped=True,
    ),
    "stablelm": Family(
        hf.StableLmForCausalLM,
        lambda m: config(
            hf.StableLmConfig,
            m,
            layer_norm_eps=m.norm_eps,
            use_qkv_bias=m.qkv_bias,
            qk_layernorm=m.qk_norm == "per_head",
        ),
        preset("stablelm-3b").replace(qk_norm="per_head", qk_norm_bias=False, rotary_fraction=0.5),
        ("stablelm-3b", "stablelm-2-1.6b"),
    ),
}
