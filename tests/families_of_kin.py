"""Architectures that differ from those before in a word or two, as Hugging Face names them."""

import transformers as hf
from families import Family, config, gpt
from families_by_position import windows
from families_of_experts import every_layer

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import preset


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


def starcoder2(m: ModelConfig) -> hf.PreTrainedConfig:
    return config(hf.Starcoder2Config, m, norm_epsilon=m.norm_eps, sliding_window=m.window)


def cohere2(m: ModelConfig) -> hf.PreTrainedConfig:
    own = windows(m) | {"layer_norm_eps": m.norm_eps, "logit_scale": m.logit_multiplier}
    return config(hf.Cohere2Config, m, **own)


def phimoe(m: ModelConfig) -> hf.PreTrainedConfig:
    return every_layer(
        hf.PhimoeConfig, sliding_window=m.window, lm_head_bias=m.head_bias, attention_bias=m.qkv_bias
    )(m)


FAMILIES_OF_KIN = {
    "qwen2": Family(
        hf.Qwen2ForCausalLM,
        lambda m: config(hf.Qwen2Config, m, rms_norm_eps=m.norm_eps),
        preset("qwen2.5-0.5b"),
        grouped=True,
    ),
    "gemma": Family(
        hf.GemmaForCausalLM,
        lambda m: config(hf.GemmaConfig, m, rms_norm_eps=m.norm_eps),
        preset("gemma-2b"),
        grouped=True,
    ),
    "glm": Family(
        hf.GlmForCausalLM,
        lambda m: config(hf.GlmConfig, m, rms_norm_eps=m.norm_eps, attention_bias=m.qkv_bias),
        preset("glm-4-9b"),
        grouped=True,
    ),
    "phi3": Family(
        hf.Phi3ForCausalLM,
        lambda m: config(hf.Phi3Config, m, rms_norm_eps=m.norm_eps, sliding_window=m.window),
        preset("phi-3-mini"),
        grouped=True,
    ),
    "starcoder2": Family(hf.Starcoder2ForCausalLM, starcoder2, preset("starcoder2-3b"), grouped=True),
    "cohere2": Family(hf.Cohere2ForCausalLM, cohere2, preset("command-r7b")),
    "falcon-7b": Family(hf.FalconForCausalLM, falcon, preset("falcon-7b")),
    "falcon-40b": Family(hf.FalconForCausalLM, falcon, preset("falcon-40b")),
    "gpt_bigcode": Family(
        hf.GPTBigCodeForCausalLM,
        lambda m: gpt(
            hf.GPTBigCodeConfig, m, n_inner=m.intermediate_size, multi_query=m.n_kv_heads < m.n_heads
        ),
        preset("starcoderbase-1b"),
    ),
}
COUNTED_ALONE = {
    "CodeGenForCausalLM": lambda m: gpt(hf.CodeGenConfig, m, n_inner=m.intermediate_size),
    "PhimoeForCausalLM": phimoe,
}
"""Classes whose presets are counted, and whose logits are held against ours elsewhere (CodeGen, in
test_weights), or differ: Phi mixes experts in a way of its own."""
