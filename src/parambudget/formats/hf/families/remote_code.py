"""Families whose class is code of their author, never run here: what it computes is known.

Keys and defaults are those of the published code, weight names are those in published files. tests/formats
holds each against the class of transformers that builds the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import expert_rules, rules
from parambudget.formats.hf.families.expert_weights import ROUTER, SHARED_EXPERTS, moe_weights
from parambudget.formats.hf.schema import (
    ANY,
    ATTENTION,
    LAYERNORM,
    LLAMA_KEYS,
    LLAMA_WEIGHTS,
    UNREAD,
    ConfigSchema,
    Family,
    WeightNames,
    llama_defaults,
    without_fields,
)

_NO_HEAD_DIM: Final = without_fields(LLAMA_KEYS, "head_dim")
_NO_ACTIVATION: Final = without_fields(LLAMA_KEYS, "activation")


def _defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(**{"head_dim": UNREAD} | others)


# fmt: off
REMOTE_CODE_FAMILIES: Final[Mapping[str, Family]] = {
    "baichuan": Family(
        model_class=None,
        config=ConfigSchema(
            keys=without_fields(_NO_HEAD_DIM, "n_kv_heads"),
            defaults=_defaults(num_key_value_heads=UNREAD, vocab_size=64000, max_position_embeddings=4096),
            aliases={"model_max_length": "max_position_embeddings"},
            uneven_heads="refuse",
            always_unsupported=(
                "positions (rotary in 7B, ALiBi in 13B), which its config does not say",
                "head of normalized rows (Baichuan 2)",
            ),
        ),
    ),
    "chatglm": Family(
        model_class=None,
        config=ConfigSchema(
            keys=without_fields(_NO_ACTIVATION, "init_std", "rope_theta") | {"qkv_bias": "attention_bias"},
            defaults=llama_defaults(
                hidden_act=UNREAD, initializer_range=UNREAD, rope_theta=UNREAD, num_hidden_layers=28,
                num_key_value_heads=1, head_dim=128, intermediate_size=13696, vocab_size=65024,
                rms_norm_eps=1e-5, attention_bias=False, add_bias_linear=False, multi_query_attention=False,
                rmsnorm=True, post_layer_norm=True, apply_residual_connection_post_layernorm=False,
                rope_ratio=1.0,
            ),
            fixed={"activation": "silu", "rotary_interleaved": True, "rotary_fraction": 0.5},
            aliases={
                "num_layers": "num_hidden_layers", "multi_query_group_num": "num_key_value_heads",
                "kv_channels": "head_dim", "ffn_hidden_size": "intermediate_size",
                "padded_vocab_size": "vocab_size", "seq_length": "max_position_embeddings",
                "layernorm_epsilon": "rms_norm_eps", "add_qkv_bias": "attention_bias",
            },
            # The first ChatGLM-6B has the same name and another architecture; it has no such keys.
            required_values={
                "multi_query_attention": True, "add_bias_linear": False, "rmsnorm": True,
                "post_layer_norm": True, "tie_word_embeddings": False,
            },
            unsupported={"rope_ratio": 1.0, "apply_residual_connection_post_layernorm": False},
            ignored_keys={"original_rope": True},
        ),
        weights=WeightNames(
            top={
                "transformer.embedding.word_embeddings": "embed",
                "transformer.encoder.final_layernorm": "norm", "transformer.output_layer": "lm_head",
            },
            layers="transformer.encoder.layers",
            block={
                "self_attention.query_key_value": ("attention.q", "attention.k", "attention.v"),
                "self_attention.dense": "attention.out", "mlp.dense_h_to_4h": ("ffn.gate", "ffn.up"),
                "mlp.dense_4h_to_h": "ffn.down", "input_layernorm": "attention_norm",
                "post_attention_layernorm": "ffn_norm",
            },
            base="transformer.",
        ),
    ),
    "deepseek": Family(
        model_class=None,
        config=ConfigSchema(
            keys=_NO_HEAD_DIM,
            defaults=_defaults(
                num_hidden_layers=30, num_key_value_heads=32, vocab_size=102400, attention_bias=False,
                moe_intermediate_size=1407, n_shared_experts=None, n_routed_experts=None,
                num_experts_per_tok=None, moe_layer_freq=1, first_k_dense_replace=0, norm_topk_prob=False,
                scoring_func="softmax",
            ),
            rules=(expert_rules.first_deepseek_moe,),
            nullable=frozenset({"num_key_value_heads"}),
            uneven_heads="refuse",
            required_values={"attention_bias": False, "moe_layer_freq": 1},
            unsupported={"scoring_func": "softmax"},
            ignored_keys={"aux_loss_alpha": ANY, "seq_aux": ANY},
        ),
        weights=moe_weights(ATTENTION, {**ROUTER, **SHARED_EXPERTS}),
    ),
    "internlm2": Family(
        model_class=None,
        config=ConfigSchema(
            keys=_NO_HEAD_DIM,
            defaults=_defaults(vocab_size=103168, attention_bias=True),
            rules=(rules.attention_bias,),
            aliases={"bias": "attention_bias"},
            uneven_heads="refuse",
        ),
        weights=WeightNames(
            top={"model.tok_embeddings": "embed", "model.norm": "norm", "output": "lm_head"},
            layers="model.layers",
            block={
                "attention.wqkv": ("attention.q", "attention.k", "attention.v"),
                "attention.wo": "attention.out", "feed_forward.w1": "ffn.gate", "feed_forward.w3": "ffn.up",
                "feed_forward.w2": "ffn.down", "attention_norm": "attention_norm", "ffn_norm": "ffn_norm",
            },
            base="model.",
            layouts={"attention.wqkv": "per_group_qkv"},
        ),
    ),
    "minicpm": Family(
        model_class=None,
        config=ConfigSchema(
            keys=_NO_HEAD_DIM | {"embedding_multiplier": "scale_emb"},
            defaults=_defaults(
                tie_word_embeddings=True, attention_bias=False, scale_emb=1.0, scale_depth=1.0,
                dim_model_base=1.0, num_experts=0, sparse_config=None,
            ),
            value_types={"sparse_config": (dict,)},
            rules=(rules.attention_bias, rules.minicpm_multipliers),
            uneven_heads="refuse",
            required_values={"num_experts": 0},
            unsupported={"sparse_config": None},
            descriptions={"sparse_config": "sparse attention (sparse_config)"},
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "orion": Family(
        model_class=None,
        config=ConfigSchema(
            keys=_NO_HEAD_DIM,
            defaults=_defaults(
                num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=40, intermediate_size=15360,
                hidden_size=5120, vocab_size=84608, max_position_embeddings=4096, rms_norm_eps=1e-5,
                attention_bias=False,
            ),
            fixed=LAYERNORM,
            uneven_heads="refuse",
            required_values={"attention_bias": False},
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "qwen": Family(
        model_class=None,
        config=ConfigSchema(
            # Attention to longer sequences than `seq_length` differs (NTK, log-n), so that is the context.
            keys=without_fields(_NO_ACTIVATION, "n_kv_heads", "intermediate_size"),
            defaults=llama_defaults(
                hidden_act=UNREAD, num_key_value_heads=UNREAD, head_dim=128, intermediate_size=22016,
                vocab_size=151936, max_position_embeddings=8192, rotary_pct=1.0, no_bias=True,
            ),
            fixed={"activation": "silu", "qkv_bias": True},
            rules=(rules.qwen_ffn, rules.require_heads_that_fill_the_width),
            aliases={
                "seq_length": "max_position_embeddings", "kv_channels": "head_dim",
                "layer_norm_epsilon": "rms_norm_eps", "rotary_emb_base": "rope_theta",
            },
            required_values={"no_bias": True},
            unsupported={"rotary_pct": 1.0},
            ignored_keys={
                "use_dynamic_ntk": ANY, "use_logn_attn": ANY, "use_flash_attn": ANY, "bf16": ANY,
                "fp16": ANY, "fp32": ANY, "onnx_safe": ANY, "scale_attn_weights": True,
                "use_cache_quantization": ANY, "use_cache_kernel": ANY,
            },
        ),
        weights=replace(
            LLAMA_WEIGHTS,
            top={"transformer.wte": "embed", "transformer.ln_f": "norm", "lm_head": "lm_head"},
            layers="transformer.h",
            block={
                "attn.c_attn": ("attention.q", "attention.k", "attention.v"),
                "attn.c_proj": "attention.out", "mlp.w1": "ffn.up", "mlp.w2": "ffn.gate",
                "mlp.c_proj": "ffn.down", "ln_1": "attention_norm", "ln_2": "ffn_norm",
            },
            base="transformer.",
        ),
    ),
}
# fmt: on
