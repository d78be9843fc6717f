"""Families since 2024 that are Llama, Gemma or OLMo with a change or two.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.families.expert_weights import LATENT_ATTENTION
from parambudget.formats.hf.schema import (
    ANY,
    ATTENTION,
    GATED_MLP,
    LAYERNORM,
    LLAMA_KEYS,
    LLAMA_WEIGHTS,
    PLAIN_MLP,
    POST_NORMS,
    PRE_NORMS,
    QK_NORMS,
    UNREAD,
    ConfigSchema,
    Family,
    TensorNames,
    WeightNames,
    llama_defaults,
    llama_weights,
    without_fields,
)

_LATENT_KEYS: Final = without_fields(LLAMA_KEYS, "head_dim", "n_kv_heads")
_LATENT_IGNORED_KEYS: Final = {"head_dim": ANY, "num_key_value_heads": ANY, "qk_head_dim": ANY}
_OLMO3_KEYS: Final = LLAMA_KEYS | {
    "rope_theta": "rope_parameters.full_attention.rope_theta",
    "rope_theta_local": "rope_parameters.sliding_attention.rope_theta",
}  # fmt: skip
"""Its object has a base for each type of layer; a base outside of it is that of full attention alone."""
_PEER_NORMS: Final[Mapping[str, TensorNames]] = {
    "post_norm1": "attention_out_norm", "post_norm2": "ffn_out_norm",
}  # fmt: skip
_EXAONE_IN_FILES: Final = WeightNames(
    top={"transformer.wte": "embed", "transformer.ln_f": "norm", "lm_head": "lm_head"},
    layers="transformer.h",
    block={
        "attn.attention.q_proj": "attention.q", "attn.attention.k_proj": "attention.k",
        "attn.attention.v_proj": "attention.v", "attn.attention.out_proj": "attention.out",
        "mlp.c_fc_0": "ffn.gate", "mlp.c_fc_1": "ffn.up", "mlp.c_proj": "ffn.down",
        "ln_1": "attention_norm", "ln_2": "ffn_norm",
    },
    base="transformer.",
)  # fmt: skip


def _llama_defaults(**others: Any) -> dict[str, Any]:
    """The defaults of a class that is Llama's under another name."""
    return llama_defaults(**{"head_dim": None, "attention_bias": False, "mlp_bias": False} | others)


_XIELU: Final[Mapping[str, TensorNames]] = {
    f"mlp.act_fn.{name}": f"ffn.activation.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")
}


# fmt: off
_APERTUS: Final = Family(
    model_class="ApertusForCausalLM",
    config=ConfigSchema(
        keys=LLAMA_KEYS,
        defaults=llama_defaults(
            intermediate_size=14336, vocab_size=131072, max_position_embeddings=65536, hidden_act="xielu",
            rms_norm_eps=1e-5, rope_theta=12_000_000.0, attention_bias=False,
        ),
        fixed={"gated": False, "qk_norm": "head"},
        rules=(rules.attention_bias,),
        default_rope_parameters={
            "rope_type": "llama3", "rope_theta": 12_000_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    ),
    weights=llama_weights(
        ATTENTION, QK_NORMS, PLAIN_MLP, _XIELU,
        {"attention_layernorm": "attention_norm", "feedforward_layernorm": "ffn_norm"},
    ),
)

LLAMA_KIN: Final[Mapping[str, Family]] = {
    "apertus": _APERTUS,
    "apertus1p5_text": replace(
        _APERTUS,
        model_class="Apertus1p5TextForCausalLM",
        config=replace(
            _APERTUS.config,
            defaults={**_APERTUS.config.defaults, "vocab_size": 266752, "output_vocab_size": None},
            required_values={"output_vocab_size": None},
        ),
    ),
    "cwm": Family(
        model_class="CwmForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"ffn_bias": "mlp_bias"},
            defaults=llama_defaults(
                hidden_size=6144, num_hidden_layers=64, num_attention_heads=48, num_key_value_heads=8,
                head_dim=128, intermediate_size=21504, vocab_size=128256, max_position_embeddings=131072,
                rms_norm_eps=1e-5, rope_theta=1_000_000.0, mlp_bias=False, sliding_window=8192,
                layer_types=None,
            ),
            rules=(layer_rules.full_attention_first,),
            uneven_heads="refuse",
            default_rope_parameters={
                "rope_type": "llama3", "rope_theta": 1_000_000.0, "factor": 16.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
        ),
        weights=LLAMA_WEIGHTS,
        token_keys=("eos_token_id", "pad_token_id"),
    ),
    "ernie4_5": Family(
        model_class="Ernie4_5ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=1024, num_hidden_layers=18, num_attention_heads=16, num_key_value_heads=2,
                head_dim=128, intermediate_size=3072, vocab_size=103424, max_position_embeddings=131072,
                rms_norm_eps=1e-5, rope_theta=500_000.0, tie_word_embeddings=True, use_bias=False,
            ),
            fixed={"rotary_interleaved": True},
            rules=(rules.starcoder2_biases,),
            nullable=frozenset({"head_dim", "num_key_value_heads", "use_bias"}),
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "exaone": Family(
        model_class="LlamaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=_llama_defaults(
                num_key_value_heads=8, intermediate_size=14336, vocab_size=102400,
                max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=500_000.0,
            ),
            rules=(rules.all_biases,),
            aliases={
                "num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps",
                "activation_function": "hidden_act",
            },
            nullable=frozenset({"num_key_value_heads"}),
            uneven_heads="refuse",
        ),
        weights=replace(LLAMA_WEIGHTS, alternatives=(_EXAONE_IN_FILES,)),
    ),
    "exaone4": Family(
        model_class="Exaone4ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                num_key_value_heads=32, intermediate_size=16384, vocab_size=102400, rms_norm_eps=1e-5,
                sliding_window=4096, sliding_window_pattern=4, layer_types=None,
            ),
            fixed={"norm_placement": "reordered", "qk_norm": "head"},
            rules=(layer_rules.exaone4_positions,),
            nullable=frozenset({"sliding_window", "sliding_window_pattern"}),
            value_types={"sliding_window_pattern": (int, str)},
        ),
        weights=llama_weights(ATTENTION, QK_NORMS, GATED_MLP, POST_NORMS),
    ),
    "granite_swa": Family(
        model_class="GraniteSWAForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2560, num_hidden_layers=24, num_attention_heads=20, num_key_value_heads=4,
                intermediate_size=8192, vocab_size=100352, max_position_embeddings=8192, rms_norm_eps=1e-5,
                tie_word_embeddings=True, attention_bias=False, mlp_bias=False, embedding_multiplier=1.0,
                residual_multiplier=1.0, attention_multiplier=1.0, logits_scaling=1.0, sliding_window=128,
                layer_types=None, layer_rope_theta=None,
            ),
            fixed={"attention_sinks": True},
            rules=(rules.all_biases, rules.granite_multipliers, layer_rules.granite_positions),
            nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        ),
        weights=llama_weights(ATTENTION, {"self_attn.sinks": "attention.sinks"}, GATED_MLP, PRE_NORMS),
    ),
    "helium": Family(
        model_class="HeliumForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"qkv_bias": "attention_bias", "ffn_bias": "mlp_bias"},
            defaults=llama_defaults(
                hidden_size=2560, num_hidden_layers=24, num_attention_heads=20, num_key_value_heads=20,
                head_dim=128, intermediate_size=7040, vocab_size=48000, max_position_embeddings=4096,
                rms_norm_eps=1e-8, rope_theta=100_000.0, attention_bias=False, mlp_bias=False,
            ),
            fixed={"rotary_interleaved": True},
            rules=(rules.require_heads_that_fill_the_width,),
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "hunyuan_v1_dense": Family(
        model_class="HunYuanDenseV1ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                vocab_size=290943, rms_norm_eps=1e-5, attention_bias=False, head_dim=None,
            ),
            fixed={"qk_norm": "head", "qk_norm_after_rotation": True},
            rules=(rules.attention_bias, rules.require_head_dim),
        ),
        weights=llama_weights(
            ATTENTION, GATED_MLP, PRE_NORMS,
            {
                "self_attn.query_layernorm": "attention.q_norm",
                "self_attn.key_layernorm": "attention.k_norm",
            },
        ),
    ),
    "hyperclovax": Family(
        model_class="HyperCLOVAXForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {
                "embedding_multiplier": "embedding_multiplier", "residual_multiplier": "residual_multiplier",
                "attention_multiplier": "attention_multiplier", "logit_multiplier": "logits_scaling",
            },
            defaults=_llama_defaults(
                embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=None,
                logits_scaling=1.0, use_post_norm=True,
            ),
            rules=(rules.all_biases, rules.hyperclovax_norms),
            uneven_heads="refuse",
        ),
        weights=llama_weights(ATTENTION, GATED_MLP, PRE_NORMS, _PEER_NORMS),
    ),
    "internlm3": Family(
        model_class="LlamaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=_llama_defaults(
                num_hidden_layers=48, num_key_value_heads=2, head_dim=128, intermediate_size=10240,
                vocab_size=128512, max_position_embeddings=32768, rms_norm_eps=1e-5,
            ),
            rules=(rules.internlm3_biases,),
            aliases={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
            nullable=frozenset({"head_dim", "num_key_value_heads"}),
            uneven_heads="refuse",
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "iquestcoder": Family(
        model_class="LlamaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=_llama_defaults(
                hidden_size=5120, num_hidden_layers=80, num_attention_heads=40, num_key_value_heads=8,
                head_dim=128, intermediate_size=27648, vocab_size=76800, max_position_embeddings=131072,
                rms_norm_eps=1e-5, clip_qkv=None, use_sliding_window=False,
            ),
            rules=(rules.all_biases,),
            nullable=frozenset({"head_dim", "num_key_value_heads", "use_sliding_window"}),
            required_values={"clip_qkv": None, "use_sliding_window": False},
            uneven_heads="refuse",
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "jais2": Family(
        model_class="Jais2ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"norm_eps": "layer_norm_eps"},
            defaults=_llama_defaults(
                hidden_size=3328, num_attention_heads=26, intermediate_size=26624, vocab_size=150272,
                max_position_embeddings=8192, rms_norm_eps=UNREAD, layer_norm_eps=1e-5, hidden_act="relu2",
                attention_bias=True, mlp_bias=True,
            ),
            fixed=LAYERNORM | {"gated": False},
            rules=(rules.all_biases,),
            uneven_heads="refuse",
        ),
        weights=llama_weights(ATTENTION, PRE_NORMS, PLAIN_MLP),
    ),
    "minicpm3": Family(
        model_class="MiniCPM3ForCausalLM",
        config=ConfigSchema(
            keys=_LATENT_KEYS | {"embedding_multiplier": "scale_emb", "ffn_bias": "mlp_bias"},
            defaults=llama_defaults(
                num_key_value_heads=UNREAD, head_dim=UNREAD, hidden_size=2560, num_hidden_layers=62,
                num_attention_heads=40, intermediate_size=6400, vocab_size=73448,
                max_position_embeddings=32768, rms_norm_eps=1e-5, initializer_range=0.1,
                tie_word_embeddings=True, attention_bias=False, mlp_bias=False, q_lora_rank=768,
                kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=None, scale_emb=12.0,
                scale_depth=1.4, dim_model_base=256,
            ),
            rules=(rules.minicpm_multipliers, layer_rules.minicpm3_attention),
            nullable=frozenset({"dim_model_base", "q_lora_rank", "scale_depth"}),
            uneven_heads="refuse",
            ignored_keys=_LATENT_IGNORED_KEYS,
        ),
        weights=llama_weights(LATENT_ATTENTION, GATED_MLP, PRE_NORMS),
    ),
    "ministral": Family(
        model_class="MinistralForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                intermediate_size=14336, num_key_value_heads=8, head_dim=None,
                max_position_embeddings=131072, sliding_window=4096, layer_types=None,
            ),
            rules=(rules.require_head_dim, layer_rules.window_by_layer_types),
            nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "ministral3": Family(
        model_class="Ministral3ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                num_hidden_layers=34, num_key_value_heads=8, head_dim=128, intermediate_size=14336,
                vocab_size=131072, max_position_embeddings=262144, rms_norm_eps=1e-5,
                sliding_window=None,
            ),
            rules=(layer_rules.window_everywhere,),
            nullable=frozenset({"num_key_value_heads"}),
            default_rope_parameters={
                "rope_type": "yarn", "rope_theta": 1_000_000.0, "factor": 16.0, "beta_fast": 32.0,
                "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
                "original_max_position_embeddings": 16384,
            },
            rope_scales_queries=True,
            ignored_keys={"layer_types": ANY},
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "nanochat": Family(
        model_class="NanoChatForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"logit_softcap": "final_logit_softcapping"},
            defaults=llama_defaults(
                hidden_size=768, num_hidden_layers=12, num_attention_heads=6, intermediate_size=8192,
                vocab_size=50304, hidden_act="relu2", final_logit_softcapping=15.0, attention_bias=False,
            ),
            fixed={"norm_weight": False, "embedding_norm": True, "qk_norm": "head", "gated": False},
            rules=(rules.attention_bias,),
            nullable=frozenset({"final_logit_softcapping"}),
        ),
        weights=llama_weights(
            ATTENTION, {"mlp.fc1": "ffn.up", "mlp.fc2": "ffn.down"},
            layouts=dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj"), "swapped_halves"),
        ),
    ),
    "olmo3": Family(
        model_class="Olmo3ForCausalLM",
        config=ConfigSchema(
            keys=_OLMO3_KEYS,
            defaults=llama_defaults(
                vocab_size=50304, rms_norm_eps=1e-5, attention_bias=False, sliding_window=4096,
                layer_types=None, rope_theta=UNREAD,
            ) | dict.fromkeys((_OLMO3_KEYS[name] for name in ("rope_theta", "rope_theta_local")), 500_000.0),
            fixed={"norm_placement": "reordered", "qk_norm": "full"},
            rules=(rules.attention_bias, layer_rules.three_windows_of_four),
            aliases={"rope_theta": "rope_parameters.full_attention.rope_theta"},
            nullable=frozenset({"sliding_window"}),
        ),
        weights=llama_weights(ATTENTION, QK_NORMS, GATED_MLP, POST_NORMS),
    ),
    "vaultgemma": Family(
        model_class="VaultGemmaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {
                "activation": "hidden_activation", "logit_softcap": "final_logit_softcapping",
                "attention_softcap": "attn_logit_softcapping",
            },
            defaults=llama_defaults(
                hidden_size=2304, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
                head_dim=256, intermediate_size=9216, vocab_size=256000, max_position_embeddings=8192,
                hidden_act=UNREAD, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True,
                attention_bias=False, query_pre_attn_scalar=256, sliding_window=4096, layer_types=None,
                final_logit_softcapping=30.0, attn_logit_softcapping=50.0,
            ),
            rules=(
                rules.attention_bias, rules.scaled_embeddings, rules.query_scale,
                layer_rules.alternating_windows,
            ),
            nullable=frozenset({"attn_logit_softcapping", "final_logit_softcapping", "sliding_window"}),
            uneven_heads="refuse",
            ignored_keys={"hidden_act": "gelu_pytorch_tanh"},
        ),
        weights=llama_weights(
            ATTENTION, GATED_MLP,
            {"input_layernorm": "attention_norm", "pre_feedforward_layernorm": "ffn_norm"}, norm_offset=1,
        ),
    ),
    "youtu": Family(
        model_class="YoutuForCausalLM",
        config=ConfigSchema(
            keys=_LATENT_KEYS,
            defaults=llama_defaults(
                num_key_value_heads=UNREAD, head_dim=UNREAD, hidden_size=2048, num_attention_heads=16,
                intermediate_size=6144, vocab_size=128256, max_position_embeddings=131072,
                tie_word_embeddings=True, initializer_range=None, attention_bias=False, q_lora_rank=1536,
                kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
                rope_interleave=True,
            ),
            rules=(
                rules.youtu_init_std, layer_rules.latent_attention, layer_rules.deepseek_v3_rotation,
            ),
            nullable=frozenset({"q_lora_rank", "rope_interleave"}),
            ignored_keys=_LATENT_IGNORED_KEYS,
        ),
        weights=llama_weights(LATENT_ATTENTION, GATED_MLP, PRE_NORMS),
    ),
}
# fmt: on
