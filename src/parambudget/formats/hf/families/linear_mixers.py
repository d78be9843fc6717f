"""Families with short convolutions, lightning attention or linear recurrences in some or all layers.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.formats.hf import expert_rules, layer_rules, mixer_rules, rules
from parambudget.formats.hf.families.expert_weights import (
    FUSED_EXPERTS,
    FUSED_LAYOUTS,
    MIXTRAL_EXPERTS,
)
from parambudget.formats.hf.schema import (
    ANY,
    ATTENTION,
    GATED_MLP,
    LAYERNORM,
    LLAMA_KEYS,
    PRE_NORMS,
    QK_NORMS,
    UNREAD,
    ConfigSchema,
    Family,
    Layout,
    TensorNames,
    WeightNames,
    llama_defaults,
    llama_weights,
    without_fields,
)

# fmt: off
_LFM_KEYS: Final = without_fields(LLAMA_KEYS, "activation") | {"norm_eps": "norm_eps"}
_LFM_CONVOLUTION: Final[Mapping[str, TensorNames]] = {
    "conv.in_proj": ("mixer.input_gate", "mixer.output_gate", "mixer.value"), "conv.conv": "mixer.conv",
    "conv.out_proj": "mixer.out",
}
_TIME_MIX: Final[Mapping[str, TensorNames]] = {
    "receptance": "mixer.receptance", "key": "mixer.k", "value": "mixer.v", "output": "mixer.out",
    "time_decay": "mixer.log_rate", "time_first": "mixer.bonus", "time_mix_key": "mixer.k_mix",
    "time_mix_value": "mixer.v_mix", "time_mix_receptance": "mixer.receptance_mix",
}
_CHANNEL_MIX: Final[Mapping[str, TensorNames]] = {
    "key": "ffn.up", "receptance": "ffn.receptance", "value": "ffn.down", "time_mix_key": "ffn.up_mix",
    "time_mix_receptance": "ffn.receptance_mix",
}
_RWKV_BLOCK: Final[Mapping[str, TensorNames]] = {
    "ln1": "attention_norm", "ln2": "ffn_norm",
    **{f"attention.{name}": ours for name, ours in _TIME_MIX.items()},
    **{f"feed_forward.{name}": ours for name, ours in _CHANNEL_MIX.items()},
}
_RWKV_WEIGHTS: Final = WeightNames(
    top={
        "rwkv.embeddings": "embed", "rwkv.blocks.0.pre_ln": "embed_norm", "rwkv.ln_out": "norm",
        "head": "lm_head",
    },
    layers="rwkv.blocks", block=_RWKV_BLOCK, base="rwkv.",
    layouts={name: "one_per_channel" for name in _RWKV_BLOCK if ".time_mix_" in name},
)
_LFM2_ATTENTION: Final[Mapping[str, TensorNames]] = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.out_proj": "attention.out", "self_attn.q_layernorm": "attention.q_norm",
    "self_attn.k_layernorm": "attention.k_norm",
}
_LFM_FFN: Final[Mapping[str, TensorNames]] = {
    "feed_forward.w1": "ffn.gate", "feed_forward.w3": "ffn.up", "feed_forward.w2": "ffn.down",
    "operator_norm": "attention_norm", "ffn_norm": "ffn_norm",
}
_LFM_ROUTER: Final[Mapping[str, TensorNames]] = {
    "feed_forward.gate": "ffn.router", "feed_forward.expert_bias": "ffn.correction",
}
_LFM_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "feed_forward.experts.*.w1": "ffn.experts.*.gate", "feed_forward.experts.*.w3": "ffn.experts.*.up",
    "feed_forward.experts.*.w2": "ffn.experts.*.down",
}
_LFM_FUSED_EXPERTS: Final[Mapping[str, TensorNames]] = {
    name.replace("mlp.", "feed_forward."): ours for name, ours in FUSED_EXPERTS.items()
}
_LIGHTNING: Final[Mapping[str, TensorNames]] = {
    "self_attn.qkv_proj": ("mixer.q", "mixer.k", "mixer.v"), "self_attn.output_gate": "mixer.gate",
    "self_attn.norm": "mixer.out_norm", "self_attn.out_proj": "mixer.out",
}


def _lfm_weights(
    *blocks: Mapping[str, TensorNames], layouts: Mapping[str, Layout] | None = None
) -> WeightNames:
    weights = llama_weights(*blocks, layouts={"conv.conv": "convolution", **(layouts or {})})
    top = {"model.embed_tokens": "embed", "model.embedding_norm": "norm", "lm_head": "lm_head"}
    return replace(weights, top=top)


def _lfm2_moe_weights() -> WeightNames:
    """Experts one by one, as in published files; as an alternative, all of a layer in one tensor."""
    shared = (_LFM2_ATTENTION, _LFM_CONVOLUTION, _LFM_FFN, _LFM_ROUTER)
    layouts: dict[str, Layout] = dict.fromkeys(_LFM_FUSED_EXPERTS, "stacked_experts")
    fused = _lfm_weights(*shared, _LFM_FUSED_EXPERTS, layouts=layouts)
    return replace(_lfm_weights(*shared, _LFM_EXPERTS), alternatives=(fused,))


def _lfm3_weights() -> WeightNames:
    """The gate has one name in files, and as an alternative another in the class."""
    def with_gate(name: str) -> WeightNames:
        return _lfm_weights(
            ATTENTION, QK_NORMS, {f"self_attn.{name}": "attention.gate"}, _LFM_CONVOLUTION, _LFM_FFN,
            {"post_operator_norm": "attention_out_norm", "post_ffn_norm": "ffn_out_norm"},
        )

    return replace(with_gate("gate_proj"), alternatives=(with_gate("g_proj"),))


def _minimax_weights() -> WeightNames:
    """The same, with names of its own for the router in files."""
    def with_experts(experts: Mapping[str, TensorNames], layouts: Mapping[str, Layout]) -> WeightNames:
        names = llama_weights(
            ATTENTION, PRE_NORMS, experts, layouts={"self_attn.qkv_proj": "per_head", **layouts}
        )
        return replace(names, mixer_block={**_LIGHTNING, **PRE_NORMS, **experts})

    fused = with_experts({"mlp.gate": "ffn.router", **FUSED_EXPERTS}, FUSED_LAYOUTS)
    return replace(with_experts(MIXTRAL_EXPERTS, {}), alternatives=(fused,))


LINEAR_MIXER_FAMILIES: Final[Mapping[str, Family]] = {
    "lfm2": Family(
        model_class="Lfm2ForCausalLM",
        config=ConfigSchema(
            keys=_LFM_KEYS,
            defaults=llama_defaults(
                hidden_size=2560, num_key_value_heads=8, intermediate_size=12288, vocab_size=65536,
                max_position_embeddings=128_000, hidden_act=UNREAD, rms_norm_eps=UNREAD, norm_eps=1e-5,
                tie_word_embeddings=True, rope_theta=1_000_000.0, conv_bias=False, conv_L_cache=3,
                block_multiple_of=256, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
                full_attn_idxs=None, layer_types=None,
            ),
            fixed={"activation": "silu", "qk_norm": "head"},
            rules=(mixer_rules.lfm2_ffn, mixer_rules.short_convolutions),
            aliases={"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"},
            ignored_keys={
                "block_dim": ANY, "block_mlp_init_scale": ANY, "block_norm_eps": ANY,
                "block_out_init_scale": ANY, "block_use_swiglu": True, "block_use_xavier_init": ANY,
                "conv_dim": ANY, "conv_dim_out": ANY, "conv_use_xavier_init": ANY, "num_heads": ANY,
                "use_pos_enc": True,
            },
        ),
        weights=_lfm_weights(_LFM2_ATTENTION, _LFM_CONVOLUTION, _LFM_FFN),
    ),
    "lfm2_moe": Family(
        model_class="Lfm2MoeForCausalLM",
        config=ConfigSchema(
            keys=_LFM_KEYS,
            defaults=llama_defaults(
                hidden_size=2048, num_key_value_heads=8, intermediate_size=7168, vocab_size=65536,
                max_position_embeddings=128_000, hidden_act=UNREAD, rms_norm_eps=UNREAD, norm_eps=1e-5,
                tie_word_embeddings=True, rope_theta=1_000_000.0, conv_bias=False, conv_L_cache=3,
                layer_types=None, moe_intermediate_size=1792, num_dense_layers=2, num_experts_per_tok=4,
                num_experts=32, use_expert_bias=True, routed_scaling_factor=1.0, norm_topk_prob=True,
            ),
            fixed={"activation": "silu", "qk_norm": "head"},
            rules=(expert_rules.lfm2_moe, mixer_rules.lfm2_moe_layers),
            aliases={"tie_embedding": "tie_word_embeddings"},
        ),
        weights=_lfm2_moe_weights(),
    ),
    "lfm3": Family(
        model_class="Lfm3ForCausalLM",
        config=ConfigSchema(
            keys=_LFM_KEYS | {"rope_theta_local": "rope_local_base_freq"},
            defaults=llama_defaults(
                hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=4,
                head_dim=128, intermediate_size=7680, vocab_size=128_000, max_position_embeddings=128_000,
                hidden_act=UNREAD, rms_norm_eps=UNREAD, norm_eps=1e-5, tie_word_embeddings=True,
                rope_theta=1_000_000.0, rope_local_base_freq=10_000.0, attention_bias=False,
                conv_bias=False, conv_L_cache=7, layer_types=None, sliding_window=256,
                use_sandwich_norm=True, use_attention_gate=True,
            ),
            fixed={"activation": "silu", "qk_norm": "head"},
            rules=(rules.attention_bias, mixer_rules.lfm3_attention, mixer_rules.lfm3_layers),
            aliases={"rms_norm_eps": "norm_eps"},
            nullable=frozenset({"sliding_window"}),
            rope_only_in_objects=True,
            default_rope_parameters={
                "rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1_000_000.0,
            },
        ),
        weights=_lfm3_weights(),
    ),
    "minimax": Family(
        model_class="MiniMaxForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "intermediate_size"),
            defaults=llama_defaults(
                num_key_value_heads=8, head_dim=None, intermediate_size=14336,
                max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
                sliding_window=None, num_experts_per_tok=2, num_local_experts=8, layer_types=None,
                full_attn_alpha_factor=1, full_attn_beta_factor=1, linear_attn_alpha_factor=1,
                linear_attn_beta_factor=1, mlp_alpha_factor=1, mlp_beta_factor=1,
            ),
            value_types=dict.fromkeys(
                (f"{branch}_{name}_factor" for branch in ("full_attn", "linear_attn", "mlp")
                 for name in ("alpha", "beta")), (float, int),
            ),
            fixed={"norm_placement": "stream"},
            rules=(
                expert_rules.experts_everywhere, layer_rules.window_everywhere,
                mixer_rules.lightning_attention, mixer_rules.minimax_factors,
            ),
            unsupported_rules=(mixer_rules.unequal_minimax_factors,),
            aliases={"num_experts": "num_local_experts"},
            unsupported={"hidden_act": "silu"},
            descriptions={"hidden_act": "the same activation of linear attention (hidden_act)"},
            exported_layer_words={"sliding_attention": "full_attention"},
            ignored_keys={"block_size": ANY},
        ),
        weights=_minimax_weights(),
    ),
    "recurrent_gemma": Family(
        model_class="RecurrentGemmaForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "context_length", "head_dim", "init_std") | {
                "activation": "hidden_activation", "logit_softcap": "logits_soft_cap",
                "rotary_fraction": "partial_rotary_factor",
            },
            defaults=llama_defaults(
                hidden_size=2560, num_hidden_layers=26, num_attention_heads=10, head_dim=UNREAD,
                intermediate_size=7680, vocab_size=256000, max_position_embeddings=UNREAD,
                hidden_act=UNREAD, hidden_activation="gelu_pytorch_tanh", initializer_range=UNREAD,
                tie_word_embeddings=True, partial_rotary_factor=0.5, attention_bias=False,
                logits_soft_cap=30.0, lru_width=None, attention_window_size=2048, conv1d_width=4,
                block_types=["recurrent", "recurrent", "attention"],
            ),
            fixed={"attention_out_bias": True, "ffn_bias": True, "context_length": 8192},
            rules=(
                rules.qwen_ffn, mixer_rules.qkv_bias, mixer_rules.recurrent_gemma_embeddings,
                mixer_rules.rg_lru,
            ),
            aliases={"sliding_window": "attention_window_size"},
            value_types={"block_types": (list, tuple)},
            uneven_heads="round_down",
            unsupported={"hidden_activation": "gelu_pytorch_tanh"},
            descriptions={"hidden_activation": "the same activation of recurrences (hidden_activation)"},
            rope_types=frozenset(),
            ignored_keys={"w_init_variance_scale": ANY, "final_w_init_variance_scale": ANY},
        ),
        weights=replace(
            llama_weights(
                {
                    "temporal_block.q_proj": "attention.q", "temporal_block.k_proj": "attention.k",
                    "temporal_block.v_proj": "attention.v", "temporal_block.o_proj": "attention.out",
                    "temporal_block.linear_y": "mixer.gate", "temporal_block.linear_x": "mixer.input",
                    "temporal_block.linear_out": "mixer.out", "temporal_block.conv_1d": "mixer.conv",
                    "temporal_block.rg_lru.recurrent_param": "mixer.rate",
                    "temporal_block.rg_lru.input_gate_weight": "mixer.input_gate.weight",
                    "temporal_block.rg_lru.input_gate_bias": "mixer.input_gate.bias",
                    "temporal_block.rg_lru.recurrent_gate_weight": "mixer.decay_gate.weight",
                    "temporal_block.rg_lru.recurrent_gate_bias": "mixer.decay_gate.bias",
                    "temporal_pre_norm": "attention_norm", "channel_pre_norm": "ffn_norm",
                },
                {name.replace("mlp.", "mlp_block."): ours for name, ours in GATED_MLP.items()},
                layouts={
                    "temporal_block.conv_1d": "convolution",
                    "temporal_block.rg_lru.input_gate_weight": "transposed",
                    "temporal_block.rg_lru.recurrent_gate_weight": "transposed",
                },
                norm_offset=1,
            ),
            top={"model.embed_tokens": "embed", "model.final_norm": "norm", "lm_head": "lm_head"},
        ),
    ),
    "rwkv": Family(
        model_class="RwkvForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "hidden_size", "n_layers": "num_hidden_layers", "vocab_size": "vocab_size",
                "context_length": "context_length", "intermediate_size": "intermediate_size",
                "tied": "tie_word_embeddings", "norm_eps": "layer_norm_epsilon",
                "rwkv_inner_size": "attention_hidden_size",
            },
            defaults={
                "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 50277, "context_length": 1024,
                "intermediate_size": None, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-5,
                "attention_hidden_size": None,
            },
            fixed={
                **LAYERNORM, "n_heads": 1, "position": "none", "mixer_pattern": ("rwkv",),
                "embedding_norm": True, "gated": False, "activation": "relu2", "channel_mix": True,
            },
            rules=(mixer_rules.weighted_means,),
            aliases={"max_position_embeddings": "context_length"},
            unsupported={"layer_norm_epsilon": 1e-5},
            descriptions={"layer_norm_epsilon": "a final norm with 1e-5 whatever layer_norm_epsilon is"},
            # For half precision the class halves the stream at inference, and the weights of what is added to
            # it in its own tensors: the same function but for what norms add to a variance.
            ignored_keys={"rescale_every": ANY},
        ),
        weights=_RWKV_WEIGHTS,
        unused_keys=("rescale_every",),
    ),
}
# fmt: on
