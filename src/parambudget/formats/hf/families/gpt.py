"""Families in the tradition of GPT-2: LayerNorm, plain FFNs, biases.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.schema import (
    ABSENT,
    ANY,
    COMMON_KEYS,
    LAYERNORM,
    ConfigSchema,
    Family,
    TensorNames,
    WeightNames,
    without_fields,
)

_GPT2_KEYS: Final = {
    "dim": "n_embd", "n_layers": "n_layer", "n_heads": "n_head", "vocab_size": "vocab_size",
    "context_length": "n_positions", "intermediate_size": "n_inner", "tied": "tie_word_embeddings",
    "activation": "activation_function", "norm_eps": "layer_norm_epsilon", "init_std": "initializer_range",
}  # fmt: skip
_GPT2_ALIASES: Final = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}  # fmt: skip
_PLAIN_FIELDS: Final = LAYERNORM | {"gated": False}
_BIASED_FIELDS: Final = _PLAIN_FIELDS | {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True}
_GPTJ_FIELDS: Final = _PLAIN_FIELDS | {
    "block": "parallel_shared_norm", "ffn_bias": True, "head_bias": True, "rotary_interleaved": True,
}  # fmt: skip


def _gpt2_defaults(**others: Any) -> dict[str, Any]:
    return {
        "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "tie_word_embeddings": True,
    } | others  # fmt: skip


_GPTJ_DEFAULTS: Final = _gpt2_defaults(
    vocab_size=50400, n_positions=2048, n_embd=4096, n_layer=28, n_head=16, rotary_dim=64,
    tie_word_embeddings=False,
)  # fmt: skip

_QKV: Final = ("attention.q", "attention.k", "attention.v")
_GPT2_WEIGHTS: Final = WeightNames(
    top={
        "transformer.wte": "embed", "transformer.wpe": "position", "transformer.ln_f": "norm",
        "lm_head": "lm_head",
    },
    layers="transformer.h",
    block={
        "ln_1": "attention_norm", "attn.c_attn": _QKV, "attn.c_proj": "attention.out", "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down",
    },
    base="transformer.",
    layouts=dict.fromkeys(("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), "transposed"),
)  # fmt: skip
_GPT_NEOX_BLOCK: Final[Mapping[str, TensorNames]] = {
    "mlp.dense_h_to_4h": "ffn.up", "mlp.dense_4h_to_h": "ffn.down", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_BLOOM_WEIGHTS: Final = WeightNames(
    top={
        "transformer.word_embeddings": "embed", "transformer.word_embeddings_layernorm": "embed_norm",
        "transformer.ln_f": "norm", "lm_head": "lm_head",
    },
    layers="transformer.h",
    block={
        "self_attention.query_key_value": _QKV, "self_attention.dense": "attention.out", **_GPT_NEOX_BLOCK,
    },
    base="transformer.",
    layouts={"self_attention.query_key_value": "per_group_qkv"},
)  # fmt: skip
_GPT_NEOX_TOP: Final[Mapping[str, TensorNames]] = {
    "gpt_neox.embed_in": "embed", "gpt_neox.final_layer_norm": "norm",
}  # fmt: skip
_GPT_NEOX_WEIGHTS: Final = WeightNames(
    top={**_GPT_NEOX_TOP, "embed_out": "lm_head"},
    layers="gpt_neox.layers",
    block={"attention.query_key_value": _QKV, "attention.dense": "attention.out", **_GPT_NEOX_BLOCK},
    base="gpt_neox.",
    layouts={"attention.query_key_value": "per_group_qkv"},
)
_GPTJ_BLOCK: Final[Mapping[str, TensorNames]] = {
    "ln_1": "attention_norm", "attn.out_proj": "attention.out", "mlp.fc_in": "ffn.up",
    "mlp.fc_out": "ffn.down",
}  # fmt: skip
_GPTJ_WEIGHTS: Final = WeightNames(
    top={"transformer.wte": "embed", "transformer.ln_f": "norm", "lm_head": "lm_head"},
    layers="transformer.h",
    block={
        "attn.q_proj": "attention.q", "attn.k_proj": "attention.k", "attn.v_proj": "attention.v",
        **_GPTJ_BLOCK,
    },
    base="transformer.",
)  # fmt: skip

_OPT_BLOCK: Final[Mapping[str, TensorNames]] = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.out_proj": "attention.out", "self_attn_layer_norm": "attention_norm", "fc1": "ffn.up",
    "fc2": "ffn.down", "final_layer_norm": "ffn_norm",
}  # fmt: skip

# fmt: off
_GPT2: Final = Family(
    model_class="GPT2LMHeadModel",
    config=ConfigSchema(
        keys=_GPT2_KEYS,
        defaults=_gpt2_defaults(
            add_cross_attention=False, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
        ),
        fixed=_BIASED_FIELDS | {"position": "learned"},
        rules=(rules.gpt2_score_scale,),
        aliases=_GPT2_ALIASES,
        required_values={"add_cross_attention": False},
        unsupported={"scale_attn_by_inverse_layer_idx": False},
    ),
    weights=_GPT2_WEIGHTS,
    dropout_keys=("attn_pdrop", "embd_pdrop", "resid_pdrop"),
)

GPT_FAMILIES: Final[Mapping[str, Family]] = {
    "biogpt": Family(
        model_class="BioGptForCausalLM",
        config=ConfigSchema(
            keys=COMMON_KEYS,
            defaults={
                "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 42384,
                "intermediate_size": 4096, "max_position_embeddings": 1024, "tie_word_embeddings": True,
                "hidden_act": "gelu", "initializer_range": 0.02, "scale_embedding": True,
            },
            fixed=_BIASED_FIELDS | {"position": "learned", "position_offset": 2, "norm_eps": 1e-5},
            rules=(rules.optionally_scaled_embeddings,),
            uneven_heads="refuse",
            ignored_keys={"layer_norm_eps": ANY},
        ),
        weights=WeightNames(
            top={
                "biogpt.embed_tokens": "embed", "biogpt.embed_positions": "position",
                "biogpt.layer_norm": "norm", "output_projection": "lm_head",
            },
            layers="biogpt.layers",
            block=_OPT_BLOCK,
            base="biogpt.",
        ),
        dropout_keys=("attention_probs_dropout_prob", "hidden_dropout_prob"),
    ),
    "bloom": Family(
        model_class="BloomForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "hidden_size", "n_layers": "n_layer", "n_heads": "n_head", "vocab_size": "vocab_size",
                "context_length": "seq_length", "tied": "tie_word_embeddings",
                "norm_eps": "layer_norm_epsilon", "init_std": "initializer_range",
            },
            defaults={
                "hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 250880, "seq_length": 2048,
                "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
                "apply_residual_connection_post_layernorm": False,
            },
            fixed=_BIASED_FIELDS | {"position": "alibi", "embedding_norm": True, "activation": "gelu_tanh"},
            aliases={
                "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "n_embed": "hidden_size",
            },
            unsupported={"apply_residual_connection_post_layernorm": False},
            ignored_keys={"n_inner": None},
        ),
        weights=_BLOOM_WEIGHTS,
    ),
    "codegen": Family(
        model_class="CodeGenForCausalLM",
        config=ConfigSchema(
            keys=_GPT2_KEYS,
            defaults=_GPTJ_DEFAULTS,
            fixed=_GPTJ_FIELDS,
            rules=(rules.rotary_dim,),
            aliases=_GPT2_ALIASES,
            ignored_keys={"scale_attn_weights": True},
        ),
        weights=replace(
            _GPTJ_WEIGHTS,
            block={"attn.qkv_proj": _QKV, **_GPTJ_BLOCK},
            layouts={"attn.qkv_proj": "codegen_qkv"},
        ),
    ),
    "ctrl": Family(
        model_class="CTRLLMHeadModel",
        config=ConfigSchema(
            keys=without_fields(_GPT2_KEYS, "activation") | {"intermediate_size": "dff"},
            defaults={
                "n_embd": 1280, "n_layer": 48, "n_head": 16, "vocab_size": 246534, "n_positions": 256,
                "dff": 8192, "layer_norm_epsilon": 1e-6, "initializer_range": 0.02,
                "tie_word_embeddings": True,
            },
            fixed=_BIASED_FIELDS | {"position": "sinusoidal", "activation": "relu", "head_bias": True},
            rules=(rules.scaled_embeddings_of_ctrl,),
            aliases=_GPT2_ALIASES,
            uneven_heads="refuse",
            unsupported={"layer_norm_epsilon": 1e-6},
            descriptions={"layer_norm_epsilon": "another epsilon in the last norm"},
        ),
        weights=WeightNames(
            top={"transformer.w": "embed", "transformer.layernorm": "norm", "lm_head": "lm_head"},
            layers="transformer.h",
            block={
                "multi_head_attention.Wq": "attention.q", "multi_head_attention.Wk": "attention.k",
                "multi_head_attention.Wv": "attention.v", "multi_head_attention.dense": "attention.out",
                "ffn.0": "ffn.up", "ffn.2": "ffn.down", "layernorm1": "attention_norm",
                "layernorm2": "ffn_norm",
            },
            base="transformer.",
        ),
        dropout_keys=("embd_pdrop", "resid_pdrop"),
    ),
    "falcon": Family(
        model_class="FalconForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
                "vocab_size": "vocab_size", "context_length": "max_position_embeddings",
                "tied": "tie_word_embeddings", "activation": "activation", "norm_eps": "layer_norm_epsilon",
                "init_std": "initializer_range", "rope_theta": "rope_theta",
            },
            defaults={
                "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024,
                "max_position_embeddings": 2048, "tie_word_embeddings": True, "activation": "gelu",
                "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "num_kv_heads": None,
                "num_ln_in_parallel_attn": None, "ffn_hidden_size": None, "alibi": False,
                "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False,
                "rope_theta": 10_000.0,
            },
            fixed=_PLAIN_FIELDS,
            rules=(rules.falcon_block,),
            aliases={"n_embed": "hidden_size"},
            unsupported={"alibi": False},
            descriptions={"alibi": "position biases divided by sqrt(head_dim)"},
            ignored_keys={"apply_residual_connection_post_layernorm": False},
        ),
        weights=replace(
            _BLOOM_WEIGHTS,
            parallel_block={
                **{name: ours for name, ours in _BLOOM_WEIGHTS.block.items() if "layernorm" not in name},
                "ln_attn": "attention_norm", "ln_mlp": "ffn_norm",
            },
        ),
    ),
    "gpt-sw3": _GPT2,
    "gpt2": _GPT2,
    "gpt_bigcode": Family(
        model_class="GPTBigCodeForCausalLM",
        config=ConfigSchema(
            keys=_GPT2_KEYS,
            defaults=_gpt2_defaults(
                activation_function="gelu_pytorch_tanh", multi_query=True, add_cross_attention=False,
                scale_attn_weights=True,
            ),
            fixed=_BIASED_FIELDS | {"position": "learned"},
            rules=(rules.gpt_bigcode_kv_heads, rules.gpt2_score_scale),
            aliases=_GPT2_ALIASES,
            required_values={"add_cross_attention": False},
        ),
        weights=replace(_GPT2_WEIGHTS, layouts={"attn.c_attn": "per_group_qkv"}),
        dropout_keys=("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    ),
    "gpt_neo": Family(
        model_class="GPTNeoForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "hidden_size", "n_layers": "num_layers", "n_heads": "num_heads",
                "vocab_size": "vocab_size", "intermediate_size": "intermediate_size",
                "context_length": "max_position_embeddings", "tied": "tie_word_embeddings",
                "activation": "activation_function", "norm_eps": "layer_norm_epsilon",
                "init_std": "initializer_range",
            },
            defaults={
                "hidden_size": 2048, "num_layers": 24, "num_heads": 16, "vocab_size": 50257,
                "intermediate_size": None, "max_position_embeddings": 2048, "tie_word_embeddings": True,
                "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
                "window_size": 256, "attention_types": None, "attention_layers": ABSENT,
            },
            fixed=_BIASED_FIELDS | {"qkv_bias": False, "position": "learned", "attention_multiplier": 1.0},
            rules=(layer_rules.gpt_neo_windows,),
            aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
        ),
        weights=replace(
            _GPT2_WEIGHTS,
            block={
                "ln_1": "attention_norm", "ln_2": "ffn_norm", "attn.attention.q_proj": "attention.q",
                "attn.attention.k_proj": "attention.k", "attn.attention.v_proj": "attention.v",
                "attn.attention.out_proj": "attention.out", "mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down",
            },
            layouts={},
        ),
    ),
    "gpt_neox": Family(
        model_class="GPTNeoXForCausalLM",
        config=ConfigSchema(
            keys=COMMON_KEYS | {
                "norm_eps": "layer_norm_eps", "rotary_fraction": "rotary_pct",
                "rope_theta": "rotary_emb_base",
            },
            defaults={
                "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
                "intermediate_size": 24576, "vocab_size": 50432, "max_position_embeddings": 2048,
                "hidden_act": "gelu", "layer_norm_eps": 1e-5, "initializer_range": 0.02,
                "tie_word_embeddings": False, "use_parallel_residual": True, "attention_bias": True,
                "rotary_pct": 0.25, "rotary_emb_base": 10_000.0, "head_dim": None,
            },
            fixed=_PLAIN_FIELDS | {"ffn_bias": True},
            rules=(rules.attention_bias, rules.gpt_neox_block, rules.gpt_neox_rotary_width),
            uneven_heads="refuse",
        ),
        weights=replace(
            _GPT_NEOX_WEIGHTS,
            alternatives=(replace(_GPT_NEOX_WEIGHTS, top={**_GPT_NEOX_TOP, "lm_head": "lm_head"}),),
        ),
    ),
    "gptj": Family(
        model_class="GPTJForCausalLM",
        config=ConfigSchema(
            keys=_GPT2_KEYS,
            defaults=_GPTJ_DEFAULTS,
            fixed=_GPTJ_FIELDS,
            rules=(rules.rotary_dim,),
            aliases=_GPT2_ALIASES,
            ignored_keys={"rotary": True, "scale_attn_weights": True},
        ),
        weights=_GPTJ_WEIGHTS,
    ),
    "mpt": Family(
        model_class="MptForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "d_model", "n_layers": "n_layers", "n_heads": "n_heads", "vocab_size": "vocab_size",
                "context_length": "max_seq_len", "tied": "tie_word_embeddings",
                "norm_eps": "layer_norm_epsilon", "init_std": "initializer_range",
            },
            defaults={
                "d_model": 2048, "n_layers": 24, "n_heads": 16, "vocab_size": 50368, "max_seq_len": 2048,
                "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
                "attn_config.clip_qkv": None, "attn_config.softmax_scale": None,
            },
            fixed=_PLAIN_FIELDS | {"norm_bias": False, "position": "alibi", "activation": "gelu"},
            rules=(rules.mpt_attention,),
            aliases={
                "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
            },
            ignored_keys={
                "attn_config.alibi": True, "attn_config.alibi_bias_max": 8, "attn_config.attn_impl": "torch",
                "attn_config.attn_type": "multihead_attention", "attn_config.attn_uses_sequence_id": False,
                "attn_config.prefix_lm": False, "attn_config.qk_ln": False, "embedding_fraction": 1.0,
                "expansion_ratio": 4, "learned_pos_emb": True, "logit_scale": None, "no_bias": True,
                "norm_type": "low_precision_layernorm",
            },
        ),
        weights=WeightNames(
            top={"transformer.wte": "embed", "transformer.norm_f": "norm", "lm_head": "lm_head"},
            layers="transformer.blocks",
            block={
                "attn.Wqkv": _QKV, "attn.out_proj": "attention.out", "ffn.up_proj": "ffn.up",
                "ffn.down_proj": "ffn.down", "norm_1": "attention_norm", "norm_2": "ffn_norm",
            },
            base="transformer.",
        ),
    ),
    "openai-gpt": Family(
        model_class="OpenAIGPTLMHeadModel",
        config=ConfigSchema(
            keys=without_fields(_GPT2_KEYS, "intermediate_size", "activation"),
            defaults={
                "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 40478, "n_positions": 512,
                "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
                "afn": "gelu",
            },
            fixed=_BIASED_FIELDS | {"position": "learned", "norm_placement": "post", "final_norm": False},
            rules=(rules.openai_gpt_activation,),
            aliases=_GPT2_ALIASES,
        ),
        weights=replace(
            _GPT2_WEIGHTS,
            top={
                "transformer.tokens_embed": "embed", "transformer.positions_embed": "position",
                "lm_head": "lm_head",
            },
        ),
        dropout_keys=("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    ),
    "opt": Family(
        model_class="OPTForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
                "vocab_size": "vocab_size", "intermediate_size": "ffn_dim",
                "context_length": "max_position_embeddings", "tied": "tie_word_embeddings",
                "activation": "activation_function", "init_std": "init_std",
            },
            defaults={
                "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50272,
                "ffn_dim": 3072, "max_position_embeddings": 2048, "tie_word_embeddings": True,
                "activation_function": "relu", "init_std": 0.02, "do_layer_norm_before": True,
                "_remove_final_layer_norm": False, "word_embed_proj_dim": None, "enable_bias": True,
                "layer_norm_elementwise_affine": True,
            },
            fixed=_PLAIN_FIELDS | {"position": "learned", "position_offset": 2, "norm_eps": 1e-5},
            rules=(rules.opt_switches,),
        ),
        weights=WeightNames(
            top={
                "model.decoder.embed_tokens": "embed", "model.decoder.embed_positions": "position",
                "model.decoder.project_in": "project_in", "model.decoder.project_out": "project_out",
                "model.decoder.final_layer_norm": "norm", "lm_head": "lm_head",
            },
            layers="model.decoder.layers",
            block=_OPT_BLOCK,
            base="model.",
        ),
        dropout_keys=("dropout",),
    ),
    "persimmon": Family(
        model_class="PersimmonForCausalLM",
        config=ConfigSchema(
            keys=COMMON_KEYS | {
                "norm_eps": "layer_norm_eps", "rotary_fraction": "partial_rotary_factor",
                "rope_theta": "rope_theta",
            },
            defaults={
                "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 64,
                "intermediate_size": 16384, "vocab_size": 262144, "max_position_embeddings": 16384,
                "hidden_act": "relu2", "layer_norm_eps": 1e-5, "initializer_range": 0.02,
                "tie_word_embeddings": False, "qk_layernorm": True, "partial_rotary_factor": 0.5,
                "rope_theta": 10_000.0,
            },
            fixed=_BIASED_FIELDS,
            rules=(rules.persimmon_qk_norm,),
            uneven_heads="refuse",
            rotates_fixed_width=True,
        ),
        weights=WeightNames(
            top={"model.embed_tokens": "embed", "model.final_layernorm": "norm", "lm_head": "lm_head"},
            layers="model.layers",
            block={
                "self_attn.query_key_value": _QKV, "self_attn.dense": "attention.out",
                "self_attn.q_layernorm": "attention.q_norm", "self_attn.k_layernorm": "attention.k_norm",
                **_GPT_NEOX_BLOCK,
            },
            base="model.",
            layouts={"self_attn.query_key_value": "per_group_qkv"},
        ),
    ),
    "xglm": Family(
        model_class="XGLMForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "d_model", "n_layers": "num_layers", "n_heads": "attention_heads",
                "vocab_size": "vocab_size", "intermediate_size": "ffn_dim",
                "context_length": "max_position_embeddings", "tied": "tie_word_embeddings",
                "activation": "activation_function", "init_std": "init_std",
            },
            defaults={
                "d_model": 1024, "num_layers": 24, "attention_heads": 16, "vocab_size": 256008,
                "ffn_dim": 4096, "max_position_embeddings": 2048, "tie_word_embeddings": True,
                "activation_function": "gelu", "init_std": 0.02, "scale_embedding": True,
                "add_cross_attention": False,
            },
            fixed=_BIASED_FIELDS | {"position": "sinusoidal", "position_offset": 2, "norm_eps": 1e-5},
            rules=(rules.optionally_scaled_embeddings, rules.xglm_positions),
            aliases={
                "hidden_size": "d_model", "num_hidden_layers": "num_layers",
                "num_attention_heads": "attention_heads",
            },
            uneven_heads="refuse",
            required_values={"add_cross_attention": False},
        ),
        weights=WeightNames(
            top={"model.embed_tokens": "embed", "model.layer_norm": "norm", "lm_head": "lm_head"},
            layers="model.layers",
            block=_OPT_BLOCK,
            base="model.",
        ),
        dropout_keys=("attention_dropout", "dropout"),
    ),
}
# fmt: on
