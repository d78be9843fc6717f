"""Architectures as Hugging Face names them: our config as theirs, and their weights under our names."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import transformers as hf

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import preset

Weights = dict[str, torch.Tensor]
Words = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """One class of Hugging Face, and which of our models are of that class."""

    model_class: type[hf.PreTrainedModel]
    config: Callable[[ModelConfig], hf.PreTrainedConfig]
    weights: Callable[[Weights, ModelConfig], Weights]
    example: ModelConfig
    """Has the family's choices; sizes are free."""
    published: tuple[str, ...] = ()
    """Presets that are exactly of this class."""
    grouped: bool = False
    """Heads may share keys and values, and need not add up to the width."""
    free_eps: bool = True
    """The config says what is added to a variance."""
    ffn_ratio: int | None = None
    """Width of the FFN over the width of the model, where the class leaves no choice."""


def config(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> hf.PreTrainedConfig:
    """The words that most classes share; what a class does not know it keeps and never reads."""
    rotation = {
        "rope_type": "default",
        "rope_theta": m.rope_theta,
        "partial_rotary_factor": m.rotary_fraction,
    }
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
        rope_parameters=rotation,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )


def granite_multipliers(m: ModelConfig) -> dict[str, float | None]:
    """The same names, but that they divide the logits."""
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier")
    return {name: getattr(m, name) for name in names} | {"logits_scaling": 1 / m.logit_multiplier}


def granite(m: ModelConfig) -> hf.PreTrainedConfig:
    return config(hf.GraniteConfig, m, rms_norm_eps=m.norm_eps, **granite_multipliers(m))


def gpt(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> hf.PreTrainedConfig:
    """The words of the first two GPTs."""
    return config_class(
        n_embd=m.dim,
        n_layer=m.n_layers,
        n_head=m.n_heads,
        vocab_size=m.vocab_size,
        n_positions=m.context_length,
        tie_word_embeddings=m.tied,
        layer_norm_epsilon=m.norm_eps,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )


LLAMA_WORDS: Words = (
    ("model.", ""), ("embed_tokens", "embed"), ("self_attn", "attention"), ("mlp", "ffn"), ("_proj", ""),
    ("attention.o.", "attention.out."), ("input_layernorm", "attention_norm"),
)  # fmt: skip
PRE_WORDS: Words = (*LLAMA_WORDS, ("post_attention_layernorm", "ffn_norm"))
OLMO2_WORDS: Words = (
    *LLAMA_WORDS, ("post_attention_layernorm", "attention_out_norm"),
    ("post_feedforward_layernorm", "ffn_out_norm"),
)  # fmt: skip
PHI_WORDS: Words = (
    *LLAMA_WORDS, ("attention.dense", "attention.out"), ("fc1", "up"), ("fc2", "down"),
    ("final_layernorm", "norm"),
)  # fmt: skip
GPT_WORDS: Words = (
    ("transformer.", ""), ("wte", "embed"), ("wpe", "position"), ("tokens_embed", "embed"),
    ("positions_embed", "position"), ("h.", "layers."), ("ln_1", "attention_norm"), ("ln_2", "ffn_norm"),
    ("ln_f", "norm"), ("attn.c_attn", "attention.qkv"), ("attn.c_proj", "attention.out"),
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


def less_one(words: Words) -> Callable[[Weights, ModelConfig], Weights]:
    """A reader of weights whose norms keep their scale less one."""

    def read(weights: Weights, m: ModelConfig) -> Weights:
        ours = renamed(words)(weights, m).items()
        return {name: weight + 1 if name.endswith("norm.weight") else weight for name, weight in ours}

    return read


def gpt_weights(weights: Weights, m: ModelConfig) -> Weights:
    """The first GPTs keep their matrices (in, out), and queries, keys and values in one."""
    ours = renamed(GPT_WORDS)(weights, m)
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


GPT1 = preset("gpt2").replace(norm_placement="post", final_norm=False)
NEMOTRON = preset("llama-3-8b").replace(
    norm="layernorm", norm_bias=True, gated=False, activation="relu2", rotary_fraction=0.5
)

FAMILIES = {
    "llama": Family(
        hf.LlamaForCausalLM,
        lambda m: config(hf.LlamaConfig, m, rms_norm_eps=m.norm_eps),
        renamed(PRE_WORDS),
        preset("llama-3-8b"),
        ("smollm2-135m", "llama-3.2-1b", "llama-2-7b", "llama-3-8b", "llama-3-70b"),
        grouped=True,
    ),
    "qwen3": Family(
        hf.Qwen3ForCausalLM,
        lambda m: config(hf.Qwen3Config, m, rms_norm_eps=m.norm_eps),
        renamed(PRE_WORDS),
        preset("qwen3-0.6b"),
        ("qwen3-0.6b", "qwen3-4b", "qwen3-32b"),
        grouped=True,
    ),
    "granite": Family(
        hf.GraniteForCausalLM,
        granite,
        renamed(PRE_WORDS),
        preset("granite-3.1-2b").replace(logit_multiplier=0.125),
        ("granite-3.1-2b", "granite-3.1-8b"),
    ),
    "olmo": Family(
        hf.OlmoForCausalLM,
        lambda m: config(hf.OlmoConfig, m),
        renamed(PRE_WORDS),
        preset("olmo-1b"),
        ("olmo-1b", "olmo-7b"),
        free_eps=False,
    ),
    "olmo2": Family(
        hf.Olmo2ForCausalLM,
        lambda m: config(hf.Olmo2Config, m, rms_norm_eps=m.norm_eps),
        renamed(OLMO2_WORDS),
        preset("olmo-2-7b"),
        ("olmo-2-1b", "olmo-2-7b", "olmo-2-32b"),
        grouped=True,
    ),
    "nemotron": Family(
        hf.NemotronForCausalLM,
        lambda m: config(hf.NemotronConfig, m, norm_eps=m.norm_eps),
        less_one(PRE_WORDS),
        NEMOTRON,
    ),
    "phi": Family(
        hf.PhiForCausalLM,
        lambda m: config(hf.PhiConfig, m, layer_norm_eps=m.norm_eps),
        renamed(PHI_WORDS),
        preset("phi-1.5"),
        ("phi-1.5", "phi-2"),
    ),
    "gpt_neox": Family(
        hf.GPTNeoXForCausalLM,
        lambda m: config(
            hf.GPTNeoXConfig, m, layer_norm_eps=m.norm_eps, use_parallel_residual=m.block == "parallel"
        ),
        gpt_neox_weights,
        preset("pythia-70m"),
        ("pythia-70m", "pythia-410m", "pythia-6.9b", "gpt-neox-20b"),
    ),
    "gpt1": Family(
        hf.OpenAIGPTLMHeadModel, lambda m: gpt(hf.OpenAIGPTConfig, m), gpt_weights, GPT1, ffn_ratio=4
    ),
    "gpt2": Family(
        hf.GPT2LMHeadModel,
        lambda m: gpt(hf.GPT2Config, m, n_inner=m.intermediate_size),
        gpt_weights,
        preset("gpt2"),
        ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
    ),
}
