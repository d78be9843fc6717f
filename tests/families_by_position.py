"""Architectures that differ in what a query sees and how positions enter, as Hugging Face names them."""

import transformers as hf
from families import Family, config
from families_of_experts import every_layer
from published import PUBLISHED

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import preset


def example(name: str) -> ModelConfig:
    return PUBLISHED[name].model


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


FAMILIES_BY_POSITION = {
    "mistral": Family(
        hf.MistralForCausalLM,
        lambda m: config(hf.MistralConfig, m, rms_norm_eps=m.norm_eps, sliding_window=m.window),
        preset("mistral-7b-v0.1").replace(window=4096),
        ("mistral-7b-v0.1", "mistral-nemo-12b"),
        grouped=True,
    ),
    "gemma2": Family(
        hf.Gemma2ForCausalLM,
        lambda m: gemma(hf.Gemma2Config, m),
        preset("gemma-2-2b").replace(window=4096, window_pattern=("local", "global"), attention_softcap=50.0),
        ("gemma-2-2b", "gemma-2-9b", "gemma-2-27b"),
        grouped=True,
    ),
    "gemma3": Family(
        hf.Gemma3ForCausalLM,
        lambda m: gemma(hf.Gemma3TextConfig, m),
        preset("gemma-3-1b").replace(
            window=512, window_pattern=(*["local"] * 5, "global"), rope_theta_local=10_000.0
        ),
        ("gemma-3-270m", "gemma-3-1b"),
        grouped=True,
    ),
    "gpt_oss": Family(
        hf.GptOssForCausalLM,
        gpt_oss,
        example("gpt-oss-20b").replace(fused_experts=True),
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
        preset("smollm3-3b").replace(rotary_pattern=("rotary", "rotary", "rotary", "none")),
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
        preset("command-r-plus").replace(rotary_interleaved=True, logit_multiplier=0.0625),
        ("command-r-plus",),
    ),
    "glm4": Family(
        hf.Glm4ForCausalLM,
        lambda m: config(hf.Glm4Config, m, rms_norm_eps=m.norm_eps, attention_bias=m.qkv_bias),
        preset("glm-4-9b-0414").replace(rotary_interleaved=True),
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
    "opt": Family(hf.OPTForCausalLM, opt, example("opt-125m"), ("opt-125m",), free_eps=False),
    "opt-350m": Family(hf.OPTForCausalLM, opt, example("opt-350m"), ("opt-350m",), free_eps=False),
    "bloom": Family(
        hf.BloomForCausalLM,
        bloom,
        example("bloom-560m"),
        ("bloom-560m", "bloom-7b1"),
        ffn_ratio=4,
    ),
    "mpt": Family(
        hf.MptForCausalLM,
        mpt,
        example("mpt-7b").replace(qkv_clip=0.5),
        ("mpt-7b",),
        ffn_ratio=4,
    ),
    "gpt_neo": Family(
        hf.GPTNeoForCausalLM,
        gpt_neo,
        preset("gpt-neo-125m").replace(window=256, window_pattern=("global", "local")),
        ("gpt-neo-125m", "gpt-neo-2.7b"),
    ),
    "gptj": Family(
        hf.GPTJForCausalLM,
        gptj,
        preset("gpt-j-6b").replace(rotary_interleaved=True, rotary_fraction=0.5),
        ("gpt-j-6b",),
    ),
}
