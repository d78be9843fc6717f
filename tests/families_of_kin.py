"""Architectures that differ from those before in a word or two, as Hugging Face names them."""

from collections.abc import Callable, Iterable

import torch
import transformers as hf
from families import (
    GPT_NEOX_WORDS,
    GPT_WORDS,
    LLAMA_WORDS,
    PRE_WORDS,
    Family,
    Weights,
    Words,
    config,
    gpt,
    less_one,
    renamed,
    split_qkv,
)
from families_by_position import gate_and_up, heads_together, windows
from families_of_experts import every_layer

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import preset

FALCON_WORDS: Words = (
    ("transformer.h.", "layers."), ("transformer.", ""), ("word_embeddings", "embed"), ("ln_f", "norm"),
    ("self_attention", "attention"), ("ln_attn", "attention_norm"), ("ln_mlp", "ffn_norm"),
    *GPT_NEOX_WORDS[2:],
)  # fmt: skip
STARCODER2_WORDS: Words = (*PRE_WORDS, ("ffn.c_fc", "ffn.up"), ("ffn.c", "ffn.down"))


def one_after_the_other(
    read: Callable[[Weights, ModelConfig], Weights],
) -> Callable[[Weights, ModelConfig], Weights]:
    """A reader of weights that keep all queries, then all keys, then all values in one matrix."""

    def split(weights: Weights, m: ModelConfig) -> Weights:
        sizes = [heads * m.head_dim for heads in (m.n_heads, m.n_kv_heads, m.n_kv_heads)]
        return split_qkv(read(weights, m), lambda fused: fused.split(sizes))

    return split


def falcon(m: ModelConfig) -> hf.PreTrainedConfig:
    """Two norms in a parallel block are the mark of the newer of its architectures."""
    newer = m.block == "parallel"
    return hf.FalconConfig(
        hidden_size=m.dim,
        num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads,
        num_kv_heads=m.n_kv_heads,
        multi_query=not newer and m.n_kv_heads == 1,
        new_decoder_architecture=newer,
        ffn_hidden_size=m.intermediate_size,
        vocab_size=m.vocab_size,
        max_position_embeddings=m.context_length,
        tie_word_embeddings=m.tied,
        layer_norm_epsilon=m.norm_eps,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def falcon_weights(weights: Weights, m: ModelConfig) -> Weights:
    """The queries of a group, their key and their value together, group after group."""

    def split(fused: torch.Tensor) -> Iterable[torch.Tensor]:
        groups = fused.unflatten(0, (m.n_kv_heads, m.kv_group + 2, m.head_dim))
        parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
        return [part.flatten(0, part.dim() - 2) if fused.dim() == 2 else part.flatten() for part in parts]

    return split_qkv(renamed(FALCON_WORDS)(weights, m), split)


def starcoder2(m: ModelConfig) -> hf.PreTrainedConfig:
    return config(hf.Starcoder2Config, m, norm_epsilon=m.norm_eps, sliding_window=m.window)


def cohere2(m: ModelConfig) -> hf.PreTrainedConfig:
    own = windows(m) | {"layer_norm_eps": m.norm_eps, "logit_scale": m.logit_multiplier}
    return config(hf.Cohere2Config, m, **own)


def gpt_bigcode_weights(weights: Weights, m: ModelConfig) -> Weights:
    """One head's query, key and value together, or all queries before the one key and value."""
    if m.n_kv_heads == m.n_heads:
        return heads_together(GPT_WORDS)(weights, m)
    return one_after_the_other(renamed(GPT_WORDS))(weights, m)


def phimoe(m: ModelConfig) -> hf.PreTrainedConfig:
    return every_layer(
        hf.PhimoeConfig, sliding_window=m.window, lm_head_bias=m.head_bias, attention_bias=m.qkv_bias
    )(m)


FAMILIES_OF_KIN = {
    "qwen2": Family(
        hf.Qwen2ForCausalLM,
        lambda m: config(hf.Qwen2Config, m, rms_norm_eps=m.norm_eps),
        renamed(PRE_WORDS),
        preset("qwen2.5-0.5b"),
        grouped=True,
    ),
    "gemma": Family(
        hf.GemmaForCausalLM,
        lambda m: config(hf.GemmaConfig, m, rms_norm_eps=m.norm_eps),
        less_one(PRE_WORDS),
        preset("gemma-2b"),
        grouped=True,
    ),
    "glm": Family(
        hf.GlmForCausalLM,
        lambda m: config(hf.GlmConfig, m, rms_norm_eps=m.norm_eps, attention_bias=m.qkv_bias),
        gate_and_up(PRE_WORDS),
        preset("glm-4-9b"),
        grouped=True,
    ),
    "phi3": Family(
        hf.Phi3ForCausalLM,
        lambda m: config(hf.Phi3Config, m, rms_norm_eps=m.norm_eps, sliding_window=m.window),
        one_after_the_other(gate_and_up(PRE_WORDS)),
        preset("phi-3-mini"),
        grouped=True,
    ),
    "starcoder2": Family(
        hf.Starcoder2ForCausalLM, starcoder2, renamed(STARCODER2_WORDS), preset("starcoder2-3b"), grouped=True
    ),
    "cohere2": Family(hf.Cohere2ForCausalLM, cohere2, renamed(LLAMA_WORDS), preset("command-r7b")),
    "falcon-7b": Family(hf.FalconForCausalLM, falcon, falcon_weights, preset("falcon-7b")),
    "falcon-40b": Family(hf.FalconForCausalLM, falcon, falcon_weights, preset("falcon-40b")),
    "gpt_bigcode": Family(
        hf.GPTBigCodeForCausalLM,
        lambda m: gpt(
            hf.GPTBigCodeConfig, m, n_inner=m.intermediate_size, multi_query=m.n_kv_heads < m.n_heads
        ),
        gpt_bigcode_weights,
        preset("starcoderbase-1b"),
    ),
}
COUNTED_ALONE = {
    "CodeGenForCausalLM": lambda m: gpt(hf.CodeGenConfig, m, n_inner=m.intermediate_size),
    "PhimoeForCausalLM": phimoe,
}
"""Classes whose presets are counted, and whose logits are not held against ours: CodeGen keeps its matrices
in an order for four machines, Phi mixes experts in a way of its own."""
