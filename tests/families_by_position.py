"""Architectures that differ in what a query sees and how positions enter, as Hugging Face names them."""

from collections.abc import Callable, Iterable

import torch
import transformers as hf
from families import (
    LLAMA_WORDS,
    OLMO2_WORDS,
    PRE_WORDS,
    Family,
    Weights,
    Words,
    config,
    less_one,
    renamed,
    split_qkv,
)
from families_of_experts import every_layer

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import preset


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


def gpt_oss_weights(weights: Weights, m: ModelConfig) -> Weights:
    """Matrices are (in, out) and those of gate and up taken together, row by row."""
    ours: Weights = {}
    for name, weight in renamed(PRE_WORDS)(weights, m).items():
        stem, routed, rest = name.partition(".experts.")
        if not routed:
            ours[name] = weight
            continue
        kind = "bias" if rest.endswith("_bias") else "weight"
        parts = {"gate": weight[..., ::2], "up": weight[..., 1::2]} if "gate_up" in rest else {"down": weight}
        for part, own in parts.items():
            turned = own.transpose(1, 2) if kind == "weight" else own
            ours[f"{stem}.experts.{part}.{kind}"] = turned
    return ours


def heads_together(words: Words) -> Callable[[Weights, ModelConfig], Weights]:
    """A reader of weights that keep query, key and value of a head together, head after head."""

    def read(weights: Weights, m: ModelConfig) -> Weights:
        def split(fused: torch.Tensor) -> Iterable[torch.Tensor]:
            return [part.flatten(0, 1) for part in fused.unflatten(0, (m.n_heads, 3, m.head_dim)).unbind(1)]

        return split_qkv(renamed(words)(weights, m), split)

    return read


def gate_and_up(words: Words) -> Callable[[Weights, ModelConfig], Weights]:
    """A reader of weights that keep the gate and up in one matrix."""

    def read(weights: Weights, m: ModelConfig) -> Weights:
        ours: Weights = {}
        for name, weight in renamed(words)(weights, m).items():
            if ".gate_up." in name:
                gate, up = weight.chunk(2)
                ours |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
            else:
                ours[name] = weight
        return ours

    return read


def stablelm_weights(weights: Weights, m: ModelConfig) -> Weights:
    """Every head's norm is a module of its own."""
    ours = renamed((*PRE_WORDS, ("_layernorm.norms", "_norm")))(weights, m)
    for name in [name for name in ours if name.endswith("_norm.0.weight")]:
        stem, n_heads = name.removesuffix(".0.weight"), m.n_heads if ".q_norm" in name else m.n_kv_heads
        ours[f"{stem}.weight"] = torch.stack([ours.pop(f"{stem}.{head}.weight") for head in range(n_heads)])
    return ours


GLM4_WORDS: Words = (
    ("post_self_attn_layernorm", "attention_out_norm"), ("post_mlp_layernorm", "ffn_out_norm"), *PRE_WORDS,
)  # fmt: skip
GEMMA_WORDS: Words = (*OLMO2_WORDS, ("pre_feedforward_layernorm", "ffn_norm"))


FAMILIES_BY_POSITION = {
    "mistral": Family(
        hf.MistralForCausalLM,
        lambda m: config(hf.MistralConfig, m, rms_norm_eps=m.norm_eps, sliding_window=m.window),
        renamed(PRE_WORDS),
        preset("mistral-7b-v0.1"),
        ("mistral-7b-v0.1", "mistral-nemo-12b"),
        grouped=True,
    ),
    "gemma2": Family(
        hf.Gemma2ForCausalLM,
        lambda m: gemma(hf.Gemma2Config, m),
        less_one(GEMMA_WORDS),
        preset("gemma-2-2b"),
        ("gemma-2-2b", "gemma-2-9b", "gemma-2-27b"),
        grouped=True,
    ),
    "gemma3": Family(
        hf.Gemma3ForCausalLM,
        lambda m: gemma(hf.Gemma3TextConfig, m),
        less_one(GEMMA_WORDS),
        preset("gemma-3-1b"),
        ("gemma-3-270m", "gemma-3-1b"),
        grouped=True,
    ),
    "gpt_oss": Family(
        hf.GptOssForCausalLM,
        gpt_oss,
        gpt_oss_weights,
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
        renamed(PRE_WORDS),
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
        renamed(LLAMA_WORDS),
        preset("command-r-plus"),
        ("command-r-plus",),
    ),
    "glm4": Family(
        hf.Glm4ForCausalLM,
        lambda m: config(hf.Glm4Config, m, rms_norm_eps=m.norm_eps, attention_bias=m.qkv_bias),
        gate_and_up(GLM4_WORDS),
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
        stablelm_weights,
        preset("stablelm-3b").replace(qk_norm="per_head", qk_norm_bias=False, rotary_fraction=0.5),
        ("stablelm-3b", "stablelm-2-1.6b"),
    ),
}
