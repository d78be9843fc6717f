"""Six architectures as Hugging Face names them: our config as theirs, and their weights under our names."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from parambudget.arch.config import ModelConfig

Weights = dict[str, torch.Tensor]
Words = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """One architecture of Hugging Face; the published models are presets of ours, the first the smallest."""

    model_class: type[PreTrainedModel]
    config: Callable[[ModelConfig], PreTrainedConfig]
    weights: Callable[[Weights, ModelConfig], Weights]
    published: tuple[str, ...]
    free_heads: bool
    """The heads need not add up to the width, and may share keys and values."""


def llama_like(config_class: type[PreTrainedConfig], m: ModelConfig) -> PreTrainedConfig:
    """The words of Llama, which its descendants kept."""
    return config_class(
        hidden_size=m.dim,
        num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads,
        num_key_value_heads=m.n_kv_heads,
        head_dim=m.head_dim,
        intermediate_size=m.intermediate_size,
        vocab_size=m.vocab_size,
        max_position_embeddings=m.context_length,
        tie_word_embeddings=m.tied,
        rms_norm_eps=m.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": m.rope_theta},
        pad_token_id=None,
    )


def gemma2(m: ModelConfig) -> PreTrainedConfig:
    """Gemma 2 without the soft-cap on attention scores, the one thing of it that `ModelConfig` cannot say."""
    config = llama_like(Gemma2Config, m)
    config.query_pre_attn_scalar = round((m.attention_multiplier or m.head_dim**-0.5) ** -2)
    config.final_logit_softcapping = m.logit_softcap
    config.attn_logit_softcapping = None
    return config


def gpt2(m: ModelConfig) -> PreTrainedConfig:
    """GPT-2, whose heads always make up its width."""
    return GPT2Config(
        n_embd=m.dim,
        n_layer=m.n_layers,
        n_head=m.n_heads,
        n_inner=m.intermediate_size,
        vocab_size=m.vocab_size,
        n_positions=m.context_length,
        tie_word_embeddings=m.tied,
        layer_norm_epsilon=m.norm_eps,
        bos_token_id=None,
        eos_token_id=None,
    )


def gpt_neox(m: ModelConfig) -> PreTrainedConfig:
    """GPT-NeoX, of which Pythia is made."""
    rotation = {"rope_theta": m.rope_theta, "partial_rotary_factor": m.rotary_fraction}
    return GPTNeoXConfig(
        hidden_size=m.dim,
        num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads,
        intermediate_size=m.intermediate_size,
        vocab_size=m.vocab_size,
        max_position_embeddings=m.context_length,
        tie_word_embeddings=m.tied,
        layer_norm_eps=m.norm_eps,
        use_parallel_residual=m.block == "parallel",
        rope_parameters={"rope_type": "default"} | rotation,
        bos_token_id=None,
        eos_token_id=None,
    )


LLAMA_WORDS: Words = (
    ("model.", ""), ("embed_tokens", "embed"), ("self_attn", "attention"), ("mlp", "ffn"), ("_proj", ""),
    ("attention.o.", "attention.out."), ("input_layernorm", "attention_norm"),
)  # fmt: skip
OLMO2_WORDS: Words = (
    *LLAMA_WORDS, ("post_attention_layernorm", "attention_out_norm"),
    ("post_feedforward_layernorm", "ffn_out_norm"),
)  # fmt: skip
GPT2_WORDS: Words = (
    ("transformer.", ""), ("wte", "embed"), ("wpe", "position"), ("h.", "layers."),
    ("ln_1", "attention_norm"), ("ln_2", "ffn_norm"), ("ln_f", "norm"),
    ("attn.c_attn", "attention.qkv"), ("attn.c_proj", "attention.out"),
    ("mlp.c_fc", "ffn.up"), ("mlp.c_proj", "ffn.down"),
)  # fmt: skip
GPT_NEOX_WORDS: Words = (
    ("gpt_neox.", ""), ("embed_in", "embed"), ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"), ("final_layer_norm", "norm"), ("query_key_value", "qkv"),
    ("attention.dense", "attention.out"), ("mlp.dense_h_to_4h", "ffn.up"), ("mlp.dense_4h_to_h", "ffn.down"),
)  # fmt: skip


def renamed(words: Words) -> Callable[[Weights, ModelConfig], Weights]:
    """A reader of weights that differ from ours in their names only."""

    def read(weights: Weights, _: ModelConfig) -> Weights:
        ours = {}
        for name, weight in weights.items():
            for theirs, word in words:
                name = name.replace(theirs, word)
            ours[name] = weight
        return ours

    return read


def gemma2_weights(weights: Weights, m: ModelConfig) -> Weights:
    """Gemma's norms keep their scale less one."""
    ours = renamed((*OLMO2_WORDS, ("pre_feedforward_layernorm", "ffn_norm")))(weights, m)
    return {name: weight + 1 if name.endswith("norm.weight") else weight for name, weight in ours.items()}


def gpt2_weights(weights: Weights, m: ModelConfig) -> Weights:
    """GPT-2 keeps its matrices (in, out) and queries, keys and values in one."""
    ours = renamed(GPT2_WORDS)(weights, m)
    for name, weight in ours.items():
        if weight.dim() == 2 and name.startswith("layers."):
            ours[name] = weight.T
    return split_qkv(ours, lambda fused: fused.chunk(3))


def gpt_neox_weights(weights: Weights, m: ModelConfig) -> Weights:
    """GPT-NeoX keeps query, key and value of one head together, head after head."""

    def split(fused: torch.Tensor) -> Iterable[torch.Tensor]:
        return [part.flatten(0, 1) for part in fused.unflatten(0, (m.n_heads, 3, m.head_dim)).unbind(1)]

    return split_qkv(renamed(GPT_NEOX_WORDS)(weights, m), split)


def split_qkv(weights: Weights, split: Callable[[torch.Tensor], Iterable[torch.Tensor]]) -> Weights:
    """The weights with every fused `qkv` taken apart."""
    ours = {}
    for name, weight in weights.items():
        parts = zip("qkv", split(weight), strict=True) if ".qkv." in name else [("qkv", weight)]
        ours |= {name.replace(".qkv.", f".{part}."): tensor for part, tensor in parts}
    return ours


FAMILIES = {
    "llama": Family(
        LlamaForCausalLM,
        lambda m: llama_like(LlamaConfig, m),
        renamed((*LLAMA_WORDS, ("post_attention_layernorm", "ffn_norm"))),
        ("smollm2-135m", "llama-3.2-1b", "llama-2-7b", "llama-3-8b", "llama-3-70b"),
        free_heads=True,
    ),
    "qwen3": Family(
        Qwen3ForCausalLM,
        lambda m: llama_like(Qwen3Config, m),
        renamed((*LLAMA_WORDS, ("post_attention_layernorm", "ffn_norm"))),
        ("qwen3-0.6b", "qwen3-4b", "qwen3-32b"),
        free_heads=True,
    ),
    "olmo2": Family(
        Olmo2ForCausalLM,
        lambda m: llama_like(Olmo2Config, m),
        renamed(OLMO2_WORDS),
        ("olmo-2-1b", "olmo-2-7b", "olmo-2-32b"),
        free_heads=True,
    ),
    "gemma2": Family(
        Gemma2ForCausalLM,
        gemma2,
        gemma2_weights,
        ("gemma-2-2b", "gemma-2-9b", "gemma-2-27b"),
        free_heads=True,
    ),
    "gpt2": Family(
        GPT2LMHeadModel,
        gpt2,
        gpt2_weights,
        ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
        free_heads=False,
    ),
    "gpt_neox": Family(
        GPTNeoXForCausalLM,
        gpt_neox,
        gpt_neox_weights,
        ("pythia-70m", "pythia-410m", "pythia-6.9b", "gpt-neox-20b"),
        free_heads=False,
    ),
}
