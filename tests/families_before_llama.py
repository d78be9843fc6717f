"""Architectures from before Llama, with positions of other kinds, as Hugging Face names them."""

import transformers as hf
from families import GPT_NEOX_WORDS, Family, Weights, Words, renamed, split_qkv
from families_by_position import heads_together

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import preset


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


def mpt_weights(weights: Weights, m: ModelConfig) -> Weights:
    return split_qkv(renamed(MPT_WORDS)(weights, m), lambda fused: fused.chunk(3))


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


OPT_WORDS: Words = (
    ("model.decoder.", ""), ("embed_tokens", "embed"), ("embed_positions", "position"), ("_proj", ""),
    ("self_attn_layer_norm", "attention_norm"), ("self_attn", "attention"), ("fc1", "ffn.up"),
    ("fc2", "ffn.down"),
)  # fmt: skip
BLOOM_WORDS: Words = (
    ("transformer.h.", "layers."), ("transformer.", ""), ("word_embeddings_layernorm", "embed_norm"),
    ("word_embeddings", "embed"), ("ln_f", "norm"), ("self_attention", "attention"), *GPT_NEOX_WORDS[2:],
)  # fmt: skip
MPT_WORDS: Words = (
    ("transformer.", ""), ("wte", "embed"), ("blocks", "layers"), ("norm_1", "attention_norm"),
    ("norm_2", "ffn_norm"), ("norm_f", "norm"), ("attn.", "attention."), ("Wqkv", "qkv"),
    ("_proj", ""),
)  # fmt: skip
GPT_NEO_WORDS: Words = (
    ("transformer.", ""), ("wte", "embed"), ("wpe", "position"), ("h.", "layers."), ("_proj.", "."),
    ("ln_1", "attention_norm"), ("ln_2", "ffn_norm"), ("ln_f", "norm"), ("attn.attention", "attention"),
    ("attn", "attention"), ("mlp.c_fc", "ffn.up"), ("mlp.c.", "ffn.down."), ("mlp.fc_in", "ffn.up"),
    ("mlp.fc_out", "ffn.down"),
)  # fmt: skip


def opt_weights(weights: Weights, m: ModelConfig) -> Weights:
    """The norm before the FFN and the one at the end have one name."""
    ours = renamed(OPT_WORDS)(weights, m)
    names = {
        n: n.replace("final_layer_norm", "ffn_norm" if n.startswith("layers.") else "norm") for n in ours
    }
    return {names[name]: weight for name, weight in ours.items()}


FAMILIES_BEFORE_LLAMA = {
    "opt": Family(hf.OPTForCausalLM, opt, opt_weights, preset("opt-125m"), ("opt-125m",), free_eps=False),
    "opt-350m": Family(
        hf.OPTForCausalLM, opt, opt_weights, preset("opt-350m"), ("opt-350m",), free_eps=False
    ),
    "bloom": Family(
        hf.BloomForCausalLM,
        bloom,
        heads_together(BLOOM_WORDS),
        preset("bloom-560m"),
        ("bloom-560m", "bloom-7b1"),
        ffn_ratio=4,
    ),
    "mpt": Family(
        hf.MptForCausalLM,
        mpt,
        mpt_weights,
        preset("mpt-7b").replace(qkv_clip=0.5),
        ("mpt-7b",),
        ffn_ratio=4,
    ),
    "gpt_neo": Family(
        hf.GPTNeoForCausalLM,
        gpt_neo,
        renamed(GPT_NEO_WORDS),
        preset("gpt-neo-125m"),
        ("gpt-neo-125m", "gpt-neo-2.7b"),
    ),
    "gptj": Family(
        hf.GPTJForCausalLM,
        gptj,
        renamed(GPT_NEO_WORDS),
        preset("gpt-j-6b").replace(rotary_fraction=0.5),
        ("gpt-j-6b",),
    ),
}
