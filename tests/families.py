"""Architectures as Hugging Face names them: our config as theirs."""

from collections.abc import Callable
from typing import NamedTuple

import transformers as hf

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import preset


class Family(NamedTuple):
    """One class of Hugging Face, and which of our models are of that class."""

    model_class: type[hf.PreTrainedModel]
    config: Callable[[ModelConfig], hf.PreTrainedConfig]
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


GPT1 = preset("gpt2").replace(norm_placement="post", final_norm=False)
NEMOTRON = preset("llama-3-8b").replace(
    norm="layernorm", norm_bias=True, gated=False, activation="relu2", rotary_fraction=0.5
)

FAMILIES = {
    "llama": Family(
        hf.LlamaForCausalLM,
        lambda m: config(hf.LlamaConfig, m, rms_norm_eps=m.norm_eps),
        preset("llama-3-8b"),
        ("smollm2-135m", "llama-3.2-1b", "llama-2-7b", "llama-3-8b", "llama-3-70b"),
        grouped=True,
    ),
    "qwen3": Family(
        hf.Qwen3ForCausalLM,
        lambda m: config(hf.Qwen3Config, m, rms_norm_eps=m.norm_eps),
        preset("qwen3-0.6b"),
        ("qwen3-0.6b", "qwen3-4b", "qwen3-32b"),
        grouped=True,
    ),
    "granite": Family(
        hf.GraniteForCausalLM,
        granite,
        preset("granite-3.1-2b").replace(logit_multiplier=0.125),
        ("granite-3.1-2b", "granite-3.1-8b"),
    ),
    "olmo": Family(
        hf.OlmoForCausalLM,
        lambda m: config(hf.OlmoConfig, m),
        preset("olmo-1b"),
        ("olmo-1b", "olmo-7b"),
        free_eps=False,
    ),
    "olmo2": Family(
        hf.Olmo2ForCausalLM,
        lambda m: config(hf.Olmo2Config, m, rms_norm_eps=m.norm_eps),
        preset("olmo-2-7b"),
        ("olmo-2-1b", "olmo-2-7b", "olmo-2-32b"),
        grouped=True,
    ),
    "nemotron": Family(
        hf.NemotronForCausalLM,
        lambda m: config(hf.NemotronConfig, m, norm_eps=m.norm_eps),
        NEMOTRON,
    ),
    "phi": Family(
        hf.PhiForCausalLM,
        lambda m: config(hf.PhiConfig, m, layer_norm_eps=m.norm_eps),
        preset("phi-1.5"),
        ("phi-1.5", "phi-2"),
    ),
    "gpt_neox": Family(
        hf.GPTNeoXForCausalLM,
        lambda m: config(
            hf.GPTNeoXConfig, m, layer_norm_eps=m.norm_eps, use_parallel_residual=m.block == "parallel"
        ),
        preset("pythia-70m"),
        ("pythia-70m", "pythia-410m", "pythia-6.9b", "gpt-neox-20b"),
    ),
    "gpt1": Family(hf.OpenAIGPTLMHeadModel, lambda m: gpt(hf.OpenAIGPTConfig, m), GPT1, ffn_ratio=4),
    "gpt2": Family(
        hf.GPT2LMHeadModel,
        lambda m: gpt(hf.GPT2Config, m, n_inner=m.intermediate_size),
        preset("gpt2"),
        ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
    ),
}
