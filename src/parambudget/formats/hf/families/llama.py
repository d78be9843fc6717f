"""Families in the tradition of Llama whose layers are all alike.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.schema import (
    ATTENTION,
    FUSED_GATED_MLP,
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
    WeightNames,
    llama_defaults,
    llama_weights,
    without_fields,
)

_PARTIAL_ROTARY: Final = {"rotary_fraction": "partial_rotary_factor"}
_LLAMA_DEFAULTS: Final = llama_defaults(head_dim=None, attention_bias=False, mlp_bias=False)

# fmt: off
LLAMA_FAMILIES: Final[Mapping[str, Family]] = {
    "arcee": Family(
        model_class="ArceeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2560, intermediate_size=18432, max_position_embeddings=4096, hidden_act="relu2",
                rms_norm_eps=1e-5, head_dim=None, attention_bias=False, mlp_bias=False,
            ),
            fixed={"gated": False},
            rules=(rules.all_biases,),
            uneven_heads="refuse",
        ),
        weights=llama_weights(ATTENTION, PRE_NORMS, PLAIN_MLP),
    ),
    "cohere": Family(
        model_class="CohereForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"norm_eps": "layer_norm_eps", "logit_multiplier": "logit_scale"},
            defaults=llama_defaults(
                rms_norm_eps=UNREAD, hidden_size=8192, num_hidden_layers=40, num_attention_heads=64,
                intermediate_size=22528, vocab_size=256000, max_position_embeddings=8192,
                tie_word_embeddings=True, layer_norm_eps=1e-5, rope_theta=500_000.0, attention_bias=False,
                use_qk_norm=False, logit_scale=0.0625,
            ),
            fixed={
                "norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm",
                "rotary_interleaved": True,
            },
            rules=(rules.attention_bias, rules.cohere_qk_norm),
        ),
        weights=llama_weights(ATTENTION, QK_NORMS, GATED_MLP, {"input_layernorm": "attention_norm"}),
    ),
    "gemma": Family(
        model_class="GemmaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=16,
                head_dim=256, intermediate_size=24576, vocab_size=256000, max_position_embeddings=8192,
                hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True, attention_bias=False,
                use_bidirectional_attention=None,
            ),
            rules=(rules.attention_bias, rules.scaled_embeddings, rules.gemma_gelu),
            unsupported={"use_bidirectional_attention": None},
            ignored_keys={"hidden_activation": "gelu_pytorch_tanh"},
        ),
        weights=replace(LLAMA_WEIGHTS, norm_offset=1),
    ),
    "glm": Family(
        model_class="GlmForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | _PARTIAL_ROTARY | {"qkv_bias": "attention_bias"},
            defaults=llama_defaults(
                num_hidden_layers=40, num_key_value_heads=2, head_dim=128, intermediate_size=13696,
                vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1.5625e-7,
                attention_bias=True, partial_rotary_factor=0.5,
            ),
            fixed={"rotary_interleaved": True},
        ),
        weights=llama_weights(ATTENTION, FUSED_GATED_MLP, PRE_NORMS),
    ),
    "glm4": Family(
        model_class="Glm4ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | _PARTIAL_ROTARY | {"qkv_bias": "attention_bias"},
            defaults=llama_defaults(
                num_hidden_layers=40, num_key_value_heads=2, head_dim=128, intermediate_size=13696,
                vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1.5625e-7,
                attention_bias=True, partial_rotary_factor=0.5,
            ),
            fixed={"norm_placement": "sandwich", "rotary_interleaved": True},
        ),
        weights=llama_weights(
            ATTENTION, FUSED_GATED_MLP, PRE_NORMS,
            {"post_self_attn_layernorm": "attention_out_norm", "post_mlp_layernorm": "ffn_out_norm"},
        ),
    ),
    "granite": Family(
        model_class="GraniteForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                attention_bias=False, mlp_bias=False, embedding_multiplier=1.0, residual_multiplier=1.0,
                attention_multiplier=1.0, logits_scaling=1.0,
            ),
            rules=(rules.all_biases, rules.granite_multipliers),
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "llama": Family(
        model_class="LlamaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS, defaults=_LLAMA_DEFAULTS, rules=(rules.all_biases,), uneven_heads="refuse"
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "mistral": Family(
        model_class="MistralForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                intermediate_size=14336, num_key_value_heads=8, head_dim=None,
                max_position_embeddings=131072, sliding_window=4096,
            ),
            rules=(layer_rules.window_everywhere,),
            nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "mobilellm": Family(
        model_class=None,
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=_LLAMA_DEFAULTS | {"share_embedding": False, "layer_sharing": False},
            rules=(rules.all_biases, rules.mobilellm_tying),
            uneven_heads="refuse",
            unsupported={"layer_sharing": False},
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "nemotron": Family(
        model_class="NemotronForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | _PARTIAL_ROTARY | {"norm_eps": "norm_eps"},
            defaults=llama_defaults(
                rms_norm_eps=UNREAD, hidden_size=6144, num_attention_heads=48, intermediate_size=24576,
                head_dim=None, vocab_size=256000, max_position_embeddings=4096, hidden_act="relu2",
                norm_eps=1e-5, initializer_range=0.0134, attention_bias=False, mlp_bias=False,
                partial_rotary_factor=0.5,
            ),
            fixed=LAYERNORM | {"gated": False},
            rules=(rules.all_biases, rules.require_kv_heads),
        ),
        weights=llama_weights(ATTENTION, PRE_NORMS, PLAIN_MLP, norm_offset=1),
    ),
    "olmo": Family(
        model_class="OlmoForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "norm_eps") | {"qkv_clip": "clip_qkv"},
            defaults=llama_defaults(
                rms_norm_eps=UNREAD, vocab_size=50304, attention_bias=False, clip_qkv=None,
            ),
            fixed={"norm": "layernorm", "norm_weight": False, "norm_bias": False, "norm_eps": 1e-5},
            rules=(rules.attention_bias,),
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "olmo2": Family(
        model_class="Olmo2ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(vocab_size=50304, rms_norm_eps=1e-5, attention_bias=False),
            fixed={"norm_placement": "reordered", "qk_norm": "full"},
            rules=(rules.attention_bias,),
        ),
        weights=llama_weights(ATTENTION, QK_NORMS, GATED_MLP, POST_NORMS),
    ),
    "phi": Family(
        model_class="PhiForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | _PARTIAL_ROTARY | {"norm_eps": "layer_norm_eps"},
            defaults=llama_defaults(
                hidden_size=2048, num_hidden_layers=24, intermediate_size=8192, vocab_size=51200,
                rms_norm_eps=UNREAD, hidden_act="gelu_new", layer_norm_eps=1e-5, qk_layernorm=False,
                partial_rotary_factor=0.5,
            ),
            fixed=LAYERNORM | {
                "gated": False, "block": "parallel_shared_norm", "qkv_bias": True,
                "attention_out_bias": True, "ffn_bias": True, "head_bias": True,
            },
            rules=(rules.phi_qk_norm,),
            rotates_fixed_width=True,
        ),
        weights=WeightNames(
            top={"model.embed_tokens": "embed", "model.final_layernorm": "norm", "lm_head": "lm_head"},
            layers="model.layers",
            block={
                "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k",
                "self_attn.v_proj": "attention.v", "self_attn.dense": "attention.out",
                "self_attn.q_layernorm": "attention.q_norm", "self_attn.k_layernorm": "attention.k_norm",
                "mlp.fc1": "ffn.up", "mlp.fc2": "ffn.down", "input_layernorm": "attention_norm",
            },
            base="model.",
        ),
    ),
    "phi3": Family(
        model_class="Phi3ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | _PARTIAL_ROTARY,
            defaults=llama_defaults(
                hidden_size=3072, intermediate_size=8192, vocab_size=32064, max_position_embeddings=4096,
                rms_norm_eps=1e-5, partial_rotary_factor=1.0, sliding_window=None,
                original_max_position_embeddings=4096,
            ),
            rules=(layer_rules.window_everywhere,),
            rope_types=frozenset({"longrope"}),
            rope_type_aliases={"su": "longrope", "yarn": "longrope"},
            rope_recomputes_cache=True,
            ignored_keys={
                "attention_bias": False, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False,
                "mlp_bias": False,
            },
        ),
        weights=llama_weights(
            {
                "self_attn.qkv_proj": ("attention.q", "attention.k", "attention.v"),
                "self_attn.o_proj": "attention.out",
            },
            FUSED_GATED_MLP,
            PRE_NORMS,
        ),
    ),
    "seed_oss": Family(
        model_class="SeedOssForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {
                "qkv_bias": "attention_bias", "attention_out_bias": "attention_out_bias",
                "ffn_bias": "mlp_bias",
            },
            defaults=llama_defaults(
                num_hidden_layers=64, num_attention_heads=80, num_key_value_heads=8, head_dim=128,
                intermediate_size=27648, vocab_size=155136, max_position_embeddings=524288,
                attention_bias=True, attention_out_bias=False, mlp_bias=False,
            ),
            nullable=frozenset({"head_dim", "num_key_value_heads"}),
        ),
        weights=LLAMA_WEIGHTS,
        dropout_keys=("attention_dropout", "residual_dropout"),
    ),
    "stablelm": Family(
        model_class="StableLmForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "head_dim") | _PARTIAL_ROTARY | {
                "norm_eps": "layer_norm_eps", "qkv_bias": "use_qkv_bias",
            },
            defaults=llama_defaults(
                hidden_size=2560, num_key_value_heads=32, intermediate_size=6912, vocab_size=50304,
                rms_norm_eps=UNREAD, head_dim=UNREAD, max_position_embeddings=4096, layer_norm_eps=1e-5,
                use_qkv_bias=False, qk_layernorm=False, use_parallel_residual=False,
                partial_rotary_factor=0.25,
            ),
            fixed=LAYERNORM,
            rules=(rules.stablelm_block,),
            rotates_fixed_width=True,
        ),
        weights=replace(
            llama_weights(
                ATTENTION, GATED_MLP, PRE_NORMS,
                {
                    "self_attn.q_layernorm.norms.*": "attention.q_norm.*",
                    "self_attn.k_layernorm.norms.*": "attention.k_norm.*",
                },
            ),
            separate_head_norms=True,
        ),
    ),
    "starcoder2": Family(
        model_class="Starcoder2ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"norm_eps": "norm_epsilon"},
            defaults=llama_defaults(
                hidden_size=3072, num_hidden_layers=30, num_attention_heads=24, num_key_value_heads=2,
                head_dim=None, intermediate_size=12288, vocab_size=49152, max_position_embeddings=4096,
                rms_norm_eps=UNREAD, hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5,
                initializer_range=0.018042, tie_word_embeddings=True, use_bias=True, sliding_window=None,
            ),
            fixed=LAYERNORM | {"gated": False},
            rules=(rules.starcoder2_biases, layer_rules.window_everywhere),
            ignored_keys={
                "layer_norm_epsilon": 1e-5, "mlp_type": "default", "norm_type": "layer_norm",
                "scale_attention_softmax_in_fp32": True, "scale_attn_weights": True,
            },
        ),
        weights=llama_weights(ATTENTION, PRE_NORMS, {"mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down"}),
    ),
}
# fmt: on
