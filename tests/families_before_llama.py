"""Architectures from before Llama, with positions of other kinds, as Hugging Face names them."""

import transformers as hf
from families import Family

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import preset


def opt(m: ModelConfig) -> hf.PreTrainedConfig:
    return hf.OPTConfig(
        hidden_size=m.dim,
        num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads,
        ffn_dim=m.intermediate_size,
        vocab_size=m.vocab_size,
        max_position_embeddings=m.context_length,
        word_embed_proj_dim=m.embedding_dim or m.dim,
        do_layer_norm_before=m.norm_placement == "pre",
        tie_word_embeddings=m.tied,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def bloom(m: ModelConfig) -> hf.PreTrainedConfig:
    return hf.BloomConfig(
        hidden_size=m.dim,
        n_layer=m.n_layers,
        n_head=m.n_heads,
        vocab_size=m.vocab_size,
        layer_norm_epsilon=m.norm_eps,
        tie_word_embeddings=m.tied,
        bos_token_id=None,
        eos_token_id=None,
    )


def mpt(m: ModelConfig) -> hf.PreTrainedConfig:
    return hf.MptConfig(
        d_model=m.dim,
        n_layers=m.n_layers,
        n_heads=m.n_heads,
        vocab_size=m.vocab_size,
        max_seq_len=m.context_length,
        layer_norm_epsilon=m.norm_eps,
        attn_config={"clip_qkv": m.qkv_clip},
        tie_word_embeddings=m.tied,
    )


def gpt_neo(m: ModelConfig) -> hf.PreTrainedConfig:
    kinds = ["local" if m.is_local(layer) else "global" for layer in range(m.n_layers)]
    return hf.GPTNeoConfig(
        hidden_size=m.dim,
        num_layers=m.n_layers,
        num_heads=m.n_heads,
        intermediate_size=m.intermediate_size,
        vocab_size=m.vocab_size,
        max_position_embeddings=m.context_length,
        window_size=m.window or 256,
        attention_types=[[kinds, 1]],
        layer_norm_epsilon=m.norm_eps,
        tie_word_embeddings=m.tied,
        bos_token_id=None,
        eos_token_id=None,
    )


def gptj(m: ModelConfig) -> hf.PreTrainedConfig:
    return hf.GPTJConfig(
        n_embd=m.dim,
        n_layer=m.n_layers,
        n_head=m.n_heads,
        n_inner=m.intermediate_size,
        vocab_size=m.vocab_size,
        n_positions=m.context_length,
        rotary_dim=m.rotary_dim,
        layer_norm_epsilon=m.norm_eps,
        tie_word_embeddings=m.tied,
        bos_token_id=None,
        eos_token_id=None,
    )


FAMILIES_BEFORE_LLAMA = {
    "opt": Family(hf.OPTForCausalLM, opt, preset("opt-125m"), ("opt-125m",), free_eps=False),
    "opt-350m": Family(hf.OPTForCausalLM, opt, preset("opt-350m"), ("opt-350m",), free_eps=False),
    "bloom": Family(
        hf.BloomForCausalLM,
        bloom,
        preset("bloom-560m"),
        ("bloom-560m", "bloom-7b1"),
        ffn_ratio=4,
    ),
    "mpt": Family(
        hf.MptForCausalLM,
        mpt,
        preset("mpt-7b").replace(qkv_clip=0.5),
        ("mpt-7b",),
        ffn_ratio=4,
    ),
    "gpt_neo": Family(
        hf.GPTNeoForCausalLM,
        gpt_neo,
        preset("gpt-neo-125m"),
        ("gpt-neo-125m", "gpt-neo-2.7b"),
    ),
    "gptj": Family(
        hf.GPTJForCausalLM,
        gptj,
        preset("gpt-j-6b").replace(rotary_fraction=0.5),
        ("gpt-j-6b",),
    ),
}
