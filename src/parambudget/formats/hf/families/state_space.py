"""Families with state spaces in some or all layers: Mamba and Mamba-2.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, Final

from parambudget.formats.hf import rules, shared_block_rules, state_space_rules
from parambudget.formats.hf.families.expert_weights import GATES_AND_UPS
from parambudget.formats.hf.schema import (
    ABSENT,
    ANY,
    ATTENTION,
    GATED_MLP,
    LLAMA_KEYS,
    PRE_NORMS,
    UNREAD,
    ConfigSchema,
    Either,
    Family,
    TensorNames,
    WeightNames,
    llama_defaults,
    llama_weights,
    without_fields,
)

# fmt: off
_STATE_SPACES_ALONE: Final[Mapping[str, Any]] = {
    "n_heads": 1, "position": "none", "ffn_pattern": ("none",),
}
_INITIAL_STEPS: Final[Mapping[str, Any]] = dict.fromkeys(
    (
        "time_step_min", "time_step_max", "time_step_floor", "time_step_rank", "time_step_scale",
        "time_step_init_scheme", "rescale_prenorm_residual", "residual_in_fp32", "num_logits_to_keep",
        "use_mamba_kernels", "mamba_chunk_size", "use_mambapy", "use_associative_scan",
    ),
    ANY,
)
"""Keys of initial weights, and of how something is computed."""
_CONVOLUTION: Final = {"hidden_act": "silu"}
_ORIGINAL_KEYS: Final[Mapping[str, Any]] = dict.fromkeys(
    (
        "d_inner", "d_model", "n_layer", "fused_add_norm", "rms_norm", "pad_vocab_size_multiple", "ssm_cfg",
        "intermediate_size",
    ),
    ANY,
)
"""Keys of the paper's code that published configs still have beside those of the class."""


def _mamba2_names(place: str) -> dict[str, TensorNames]:
    """The names of a Mamba-2 mixer that is called `place` in its layer."""
    return {
        f"{place}.in_proj": ("mixer.gate", "mixer.x", "mixer.b", "mixer.c", "mixer.dt"),
        f"{place}.conv1d": "mixer.conv", f"{place}.dt_bias": "mixer.dt_bias",
        f"{place}.A_log": "mixer.log_rate", f"{place}.D": "mixer.skip", f"{place}.norm": "mixer.out_norm",
        f"{place}.out_proj": "mixer.out",
    }


_MAMBA2_WEIGHTS: Final = WeightNames(
    top={"backbone.embeddings": "embed", "backbone.norm_f": "norm", "lm_head": "lm_head"},
    layers="backbone.layers",
    block={"norm": "attention_norm", **_mamba2_names("mixer")},
    base="backbone.",
    layouts={"mixer.conv1d": "convolution"},
)

_MAMBA_NAMES: Final[Mapping[str, TensorNames]] = {
    "in_proj": ("mixer.x", "mixer.gate"), "conv1d": "mixer.conv",
    "x_proj": ("mixer.dt_down", "mixer.b", "mixer.c"), "dt_proj": "mixer.dt_up",
    "dt_proj.bias": "mixer.dt_bias", "A_log": "mixer.log_rate", "D": "mixer.skip", "out_proj": "mixer.out",
    "dt_layernorm": "mixer.dt_norm", "b_layernorm": "mixer.b_norm", "c_layernorm": "mixer.c_norm",
}


def _mamba_names(place: str) -> dict[str, TensorNames]:
    """The names of a Mamba mixer that is called `place` in its layer."""
    return {f"{place}.{name}": ours for name, ours in _MAMBA_NAMES.items()}


_MAMBA_WEIGHTS: Final = replace(_MAMBA2_WEIGHTS, block={"norm": "attention_norm", **_mamba_names("mixer")})
_MAMBA_KEYS: Final[Mapping[str, str]] = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "vocab_size": "vocab_size",
    "tied": "tie_word_embeddings", "norm_eps": "layer_norm_epsilon", "init_std": "initializer_range",
    "mamba_state_dim": "state_size", "mamba_conv_width": "conv_kernel", "mamba_conv_bias": "use_conv_bias",
    "mamba_bias": "use_bias",
}
_MAMBA_DEFAULTS: Final[Mapping[str, Any]] = {
    "hidden_size": 768, "num_hidden_layers": 32, "vocab_size": 50280, "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.1, "state_size": 16, "conv_kernel": 4,
    "use_conv_bias": True, "use_bias": False, "expand": 2, "hidden_act": "silu", "time_step_rank": "auto",
}
_HYBRID_KEYS: Final[Mapping[str, str]] = {
    "mamba2_n_heads": "mamba_n_heads", "mamba2_state_dim": "mamba_d_state",
    "mamba2_n_groups": "mamba_n_groups", "mamba2_conv_width": "mamba_d_conv",
    "mamba2_conv_bias": "mamba_conv_bias", "mamba2_in_bias": "mamba_proj_bias",
}
"""Keys of Mamba-2 in classes that have attention as well."""
_HYBRID_DEFAULTS: Final[Mapping[str, Any]] = {
    "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_head": "auto",
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False,
    "time_step_limit": [0.0, inf],
}
_CONVOLUTION_OF_HYBRID: Final = {"hidden_act": "hidden_act in the convolutions of its mixers"}
_FEED_FORWARD: Final[Mapping[str, TensorNames]] = {
    name.replace("mlp", "feed_forward"): ours for name, ours in GATED_MLP.items()
}
_JAMBA_FILE_EXPERTS: Final[Mapping[str, TensorNames]] = {
    f"feed_forward.experts.*.{part}_proj": f"ffn.experts.*.{part}" for part in ("gate", "up", "down")
}
_JAMBA_CLASS_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "feed_forward.experts.gate_up_proj": GATES_AND_UPS,
    "feed_forward.experts.down_proj": "ffn.experts.*.down.weight",
}
_FF_NORMS: Final[Mapping[str, TensorNames]] = {
    "input_layernorm": "attention_norm", "pre_ff_layernorm": "ffn_norm",
}


def _with_final_norm(names: WeightNames) -> WeightNames:
    """The names with that of Jamba and its kin for the last norm."""
    top = {theirs: ours for theirs, ours in names.top.items() if ours != "norm"}
    return replace(names, top={**top, "model.final_layernorm": "norm"})


def _granite_names(gate_up: str, down: str, router: str) -> WeightNames:
    return llama_weights(
        ATTENTION, PRE_NORMS, _mamba2_names("mamba"),
        {
            "shared_mlp.input_linear": Either(("ffn.gate", "ffn.up"), ("ffn.shared.gate", "ffn.shared.up")),
            "shared_mlp.output_linear": Either("ffn.down", "ffn.shared.down"),
            f"block_sparse_moe.{gate_up}": GATES_AND_UPS,
            f"block_sparse_moe.{down}": "ffn.experts.*.down.weight",
            f"block_sparse_moe.{router}": "ffn.router",
        },
        layouts={
            "mamba.conv1d": "convolution",
            **{f"block_sparse_moe.{name}": "stacked_experts" for name in (gate_up, down)},
        },
    )


def _jamba_names(experts: Mapping[str, TensorNames]) -> WeightNames:
    return _with_final_norm(llama_weights(
        ATTENTION, _FEED_FORWARD, _FF_NORMS, _mamba_names("mamba"),
        {"feed_forward.router": "ffn.router", **experts},
        layouts={
            "mamba.conv1d": "convolution",
            "feed_forward.experts.gate_up_proj": "stacked_experts",
            "feed_forward.experts.down_proj": "stacked_experts",
        },
    ))


def _nemotron_h_names(base: str, experts: Mapping[str, TensorNames]) -> WeightNames:
    attention = {theirs.replace("self_attn", "mixer"): ours for theirs, ours in ATTENTION.items()}
    return WeightNames(
        top={f"{base}embeddings": "embed", f"{base}norm_f": "norm", "lm_head": "lm_head"},
        layers=f"{base}layers",
        block={
            "norm": Either("attention_norm", "ffn_norm"), **_mamba2_names("mixer"), **attention,
            "mixer.up_proj": "ffn.up", "mixer.down_proj": "ffn.down", "mixer.gate": "ffn.router",
            "mixer.gate.e_score_correction_bias": "ffn.correction", **experts,
            "mixer.shared_experts.up_proj": "ffn.shared.up",
            "mixer.shared_experts.down_proj": "ffn.shared.down",
            "mixer.fc1_latent_proj": "ffn.latent_in", "mixer.fc2_latent_proj": "ffn.latent_out",
        },
        base=base,
        layouts={
            "mixer.conv1d": "convolution",
            **{f"mixer.experts.{name}_proj": "stacked_experts" for name in ("up", "down")},
        },
    )


_NEMOTRON_H_FILES: Final = _nemotron_h_names(
    "backbone.", {f"mixer.experts.*.{name}_proj": f"ffn.experts.*.{name}" for name in ("up", "down")}
)
_NEMOTRON_H_CLASS: Final = _nemotron_h_names(
    "model.", {f"mixer.experts.{name}_proj": f"ffn.experts.*.{name}.weight" for name in ("up", "down")}
)

STATE_SPACE_FAMILIES: Final[dict[str, Family]] = {
    "mamba2": Family(
        model_class="Mamba2ForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "hidden_size", "n_layers": "num_hidden_layers", "vocab_size": "vocab_size",
                "tied": "tie_word_embeddings", "norm_eps": "layer_norm_epsilon",
                "init_std": "initializer_range", "mamba2_n_heads": "num_heads",
                "mamba2_head_dim": "head_dim", "mamba2_state_dim": "state_size",
                "mamba2_n_groups": "n_groups", "mamba2_conv_width": "conv_kernel",
                "mamba2_conv_bias": "use_conv_bias", "mamba2_in_bias": "use_bias",
            },
            defaults={
                "hidden_size": 4096, "num_hidden_layers": 64, "vocab_size": 32768,
                "tie_word_embeddings": False, "layer_norm_epsilon": 1e-5, "initializer_range": 0.1,
                "num_heads": 128, "head_dim": 64, "state_size": 128, "n_groups": 8, "conv_kernel": 4,
                "use_conv_bias": True, "use_bias": False, "expand": 2, "hidden_act": "silu",
                "time_step_limit": [0.0, inf],
            },
            fixed={**_STATE_SPACES_ALONE, "mixer_pattern": ("mamba2",)},
            rules=(state_space_rules.mamba2,),
            unsupported=_CONVOLUTION,
            ignored_keys={**_INITIAL_STEPS, **_ORIGINAL_KEYS},
        ),
        weights=replace(_MAMBA2_WEIGHTS, alternatives=(
            replace(_MAMBA2_WEIGHTS, top={**_MAMBA2_WEIGHTS.top, "backbone.embedding": "embed"}),
        )),
    ),
    "bamba": Family(
        model_class="BambaForCausalLM",
        config=ConfigSchema(
            keys={**LLAMA_KEYS, **_HYBRID_KEYS},
            defaults=llama_defaults(
                vocab_size=128000, num_key_value_heads=8, intermediate_size=14336, rms_norm_eps=1e-5,
                max_position_embeddings=262144, attention_bias=False, mlp_bias=False,
                attn_layer_indices=None, **_HYBRID_DEFAULTS,
            ),
            fixed={"rotary_fraction": 0.5},
            rules=(rules.all_biases, state_space_rules.bamba),
            nullable=frozenset({"num_key_value_heads"}),
            value_types={"mamba_d_head": (int, str)},
            unsupported=_CONVOLUTION,
            descriptions=_CONVOLUTION_OF_HYBRID,
            ignored_keys={**_INITIAL_STEPS, "z_loss_coefficient": ANY, "attn_rotary_emb": ANY},
        ),
        weights=_with_final_norm(llama_weights(
            ATTENTION, _FEED_FORWARD, _FF_NORMS, _mamba2_names("mamba"),
            layouts={"mamba.conv1d": "convolution"},
        )),
    ),
    "falcon_h1": Family(
        model_class="FalconH1ForCausalLM",
        config=ConfigSchema(
            keys={
                **LLAMA_KEYS, **_HYBRID_KEYS, "logit_multiplier": "lm_head_multiplier",
                "embedding_multiplier": "embedding_multiplier",
                "attention_in_multiplier": "attention_in_multiplier",
                "attention_out_multiplier": "attention_out_multiplier",
                "mixer_in_multiplier": "ssm_in_multiplier", "mixer_out_multiplier": "ssm_out_multiplier",
            },
            defaults=llama_defaults(
                vocab_size=128000, num_key_value_heads=8, intermediate_size=14336, rms_norm_eps=1e-5,
                max_position_embeddings=8192, attention_bias=False, mlp_bias=False, projectors_bias=False,
                mamba_d_ssm=1024, mamba_norm_before_gate=True, mamba_rms_norm=False, lm_head_multiplier=1.0,
                embedding_multiplier=1.0, mlp_multipliers=None, key_multiplier=1.0,
                attention_out_multiplier=1.0, attention_in_multiplier=1.0, ssm_multipliers=None,
                ssm_in_multiplier=1.0, ssm_out_multiplier=1.0, **_HYBRID_DEFAULTS,
            ),
            fixed={"mixer_pattern": ("attention+mamba2",)},
            rules=(rules.all_biases, state_space_rules.falcon_h1),
            nullable=frozenset({"num_key_value_heads", "mamba_d_ssm"}),
            value_types={"mamba_d_head": (int, str)},
            unsupported=_CONVOLUTION,
            descriptions=_CONVOLUTION_OF_HYBRID,
            ignored_keys={**_INITIAL_STEPS, "mamba_use_mlp": True, "attn_rotary_emb": ANY},
        ),
        weights=_with_final_norm(llama_weights(
            ATTENTION, _FEED_FORWARD, _FF_NORMS, _mamba2_names("mamba"),
            layouts={"mamba.conv1d": "convolution"},
        )),
    ),
    "falcon_mamba": Family(
        model_class="FalconMambaForCausalLM",
        config=ConfigSchema(
            keys={**_MAMBA_KEYS, "mamba_norm_eps": "mixer_rms_eps"},
            defaults={**_MAMBA_DEFAULTS, "mixer_rms_eps": 1e-6},
            fixed={**_STATE_SPACES_ALONE, "mixer_pattern": ("mamba",), "mamba_norm": "unscaled"},
            rules=(state_space_rules.mamba,),
            value_types={"time_step_rank": (int, str)},
            unsupported=_CONVOLUTION,
            ignored_keys={**_INITIAL_STEPS, **_ORIGINAL_KEYS, "use_falcon_mambapy": ANY},
        ),
        weights=_MAMBA_WEIGHTS,
    ),
    "granitemoehybrid": Family(
        model_class="GraniteMoeHybridForCausalLM",
        config=ConfigSchema(
            keys={**without_fields(LLAMA_KEYS, "intermediate_size"), **_HYBRID_KEYS},
            defaults=llama_defaults(
                attention_bias=False, embedding_multiplier=1.0, logits_scaling=1.0, residual_multiplier=1.0,
                attention_multiplier=1.0, num_local_experts=8, num_experts_per_tok=2,
                shared_intermediate_size=1024, position_embedding_type=None, layer_types=None,
                **_HYBRID_DEFAULTS,
            ),
            rules=(rules.attention_bias, rules.granite_multipliers, state_space_rules.granite_hybrid),
            aliases={"layers_block_type": "layer_types"},
            value_types={"mamba_d_head": (int, str)},
            unsupported=_CONVOLUTION,
            descriptions=_CONVOLUTION_OF_HYBRID,
            experts_are_optional=True,
            ignored_keys={**_INITIAL_STEPS, "normalization_function": "rmsnorm", "init_method": ANY},
        ),
        weights=replace(
            _granite_names("input_linear.weight", "output_linear.weight", "router.layer"),
            alternatives=(_granite_names("experts.gate_up_proj", "experts.down_proj", "router"),),
        ),
    ),
    "jamba": Family(
        model_class="JambaForCausalLM",
        config=ConfigSchema(
            keys={
                **without_fields(LLAMA_KEYS, "rope_theta"), "mamba_state_dim": "mamba_d_state",
                "mamba_conv_width": "mamba_d_conv", "mamba_conv_bias": "mamba_conv_bias",
                "mamba_bias": "mamba_proj_bias",
            },
            defaults=llama_defaults(
                rope_theta=UNREAD, vocab_size=65536, num_key_value_heads=8, intermediate_size=14336,
                max_position_embeddings=262144, num_experts_per_tok=2, num_experts=16,
                expert_layer_period=2, expert_layer_offset=1, attn_layer_period=8, attn_layer_offset=4,
                mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank="auto",
                mamba_conv_bias=True, mamba_proj_bias=False,
            ),
            fixed={"position": "none", "mamba_norm": "scaled"},
            rules=(state_space_rules.jamba,),
            aliases={"num_local_experts": "num_experts"},
            value_types={"mamba_dt_rank": (int, str)},
            nullable=frozenset({"num_key_value_heads"}),
            unsupported=_CONVOLUTION,
            descriptions=_CONVOLUTION_OF_HYBRID,
            ignored_keys={**_INITIAL_STEPS, "mamba_inner_layernorms": True, "sliding_window": None},
        ),
        weights=replace(
            _jamba_names(_JAMBA_FILE_EXPERTS), alternatives=(_jamba_names(_JAMBA_CLASS_EXPERTS),)
        ),
    ),
    "mamba": Family(
        model_class="MambaForCausalLM",
        config=ConfigSchema(
            keys=_MAMBA_KEYS,
            defaults=_MAMBA_DEFAULTS,
            fixed={**_STATE_SPACES_ALONE, "mixer_pattern": ("mamba",)},
            rules=(state_space_rules.mamba,),
            value_types={"time_step_rank": (int, str)},
            unsupported=_CONVOLUTION,
            ignored_keys={**_INITIAL_STEPS, **_ORIGINAL_KEYS},
        ),
        weights=replace(_MAMBA_WEIGHTS, alternatives=(
            replace(_MAMBA_WEIGHTS, top={**_MAMBA_WEIGHTS.top, "backbone.embedding": "embed"}),
        )),
    ),
    "nemotron_h": Family(
        model_class="NemotronHForCausalLM",
        config=ConfigSchema(
            keys={
                **without_fields(LLAMA_KEYS, "rope_theta", "tied"), "activation": "mlp_hidden_act",
                "norm_eps": "layer_norm_epsilon", "mamba2_n_heads": "mamba_num_heads",
                "mamba2_head_dim": "mamba_head_dim", "mamba2_state_dim": "ssm_state_size",
                "mamba2_n_groups": "n_groups", "mamba2_conv_width": "conv_kernel",
                "mamba2_conv_bias": "use_conv_bias", "mamba2_in_bias": "use_bias",
                "mamba2_dt_min": "time_step_min", "ffn_bias": "mlp_bias",
            },
            defaults=llama_defaults(
                rope_theta=UNREAD, rms_norm_eps=UNREAD, tie_word_embeddings=UNREAD, hidden_act=UNREAD,
                num_hidden_layers=4, vocab_size=131072, num_key_value_heads=8, head_dim=128,
                intermediate_size=21504, max_position_embeddings=4096, layer_norm_epsilon=1e-5,
                mlp_hidden_act="relu2", mlp_bias=False, mamba_num_heads=128, mamba_head_dim=64,
                ssm_state_size=128, n_groups=8, conv_kernel=4, use_conv_bias=True, use_bias=False,
                time_step_min=0.001, mamba_hidden_act="silu", layers_block_type=None,
                hybrid_override_pattern=ABSENT, n_routed_experts=8, moe_intermediate_size=7688,
                moe_shared_expert_intermediate_size=7688, moe_latent_size=None, num_experts_per_tok=2,
                routed_scaling_factor=1.0, n_group=1, topk_group=1, norm_topk_prob=True,
            ),
            fixed={"gated": False, "position": "none", "tied": False},
            rules=(state_space_rules.nemotron_h,),
            aliases={
                "layer_types": "layers_block_type", "num_local_experts": "n_routed_experts",
                "mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_dt_min": "time_step_min",
                "mamba_conv_bias": "use_conv_bias",
            },
            unsupported={"mamba_hidden_act": "silu"},
            ignored_keys={
                **_INITIAL_STEPS, "attention_bias": False, "expand": ANY, "mamba_expand": ANY,
                "time_step_limit": ANY, "mamba_dt_limit": ANY, "mamba_dt_max": ANY,
                "mamba_dt_init_floor": ANY, "mamba_proj_bias": False, "mamba_ssm_cache_dtype": ANY,
                "n_shared_experts": 1, "moe_shared_expert_overlap": ANY, "mtp_layers_block_type": ANY,
                "mtp_hybrid_override_pattern": ANY, "tie_word_embeddings": False, "sliding_window": None,
                "rope_theta": ANY, "partial_rotary_factor": ANY, "rms_norm_eps": ANY, "norm_eps": ANY,
                "attention_head_dim": ANY,
            },
        ),
        weights=replace(_NEMOTRON_H_FILES, alternatives=(_NEMOTRON_H_CLASS,)),
    ),
    "zamba": Family(
        model_class="ZambaForCausalLM",
        config=ConfigSchema(
            keys={
                **without_fields(LLAMA_KEYS, "rope_theta"), "head_dim": "attention_head_dim",
                "mamba_state_dim": "mamba_d_state", "mamba_conv_width": "mamba_d_conv",
                "mamba_conv_bias": "mamba_conv_bias", "mamba_bias": "mamba_proj_bias",
            },
            defaults=llama_defaults(
                rope_theta=UNREAD, head_dim=UNREAD, attention_head_dim=None, attention_hidden_size=None,
                hidden_size=3712, intermediate_size=14848, num_hidden_layers=76, num_attention_heads=16,
                num_key_value_heads=16, hidden_act="gelu", rms_norm_eps=1e-5, tie_word_embeddings=True,
                max_position_embeddings=4096, n_mamba_heads=2, hidden_mamba_act="silu",
                attn_layer_period=6, attn_layer_offset=4, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2,
                mamba_dt_rank="auto", mamba_conv_bias=True, mamba_proj_bias=False, layers_block_type=None,
            ),
            fixed={"position": "none"},
            rules=(shared_block_rules.zamba,),
            aliases={"layer_types": "layers_block_type", "head_dim": "attention_head_dim"},
            uneven_heads="round_down",
            value_types={
                "mamba_dt_rank": (int, str), "attention_head_dim": (int,), "attention_hidden_size": (int,),
            },
            unsupported={"hidden_mamba_act": "silu"},
            always_unsupported=(shared_block_rules.NOT_BUILT, "state spaces in heads"),
            ignored_keys=_INITIAL_STEPS,
        ),
    ),
    "zamba2": Family(
        model_class="Zamba2ForCausalLM",
        config=ConfigSchema(
            keys={
                **LLAMA_KEYS, "head_dim": "attention_head_dim", "mamba2_n_heads": "n_mamba_heads",
                "mamba2_state_dim": "mamba_d_state", "mamba2_n_groups": "mamba_ngroups",
                "mamba2_conv_width": "mamba_d_conv", "mamba2_in_bias": "add_bias_linear",
                "mamba2_out_bias": "add_bias_linear", "mamba2_dt_min": "time_step_min",
                "ffn_bias": "add_bias_linear",
            },
            defaults=llama_defaults(
                head_dim=UNREAD, attention_head_dim=ABSENT, attention_hidden_size=ABSENT,
                mamba_headdim=ABSENT, hybrid_layer_ids=ABSENT, layer_types=None, hidden_size=2560,
                num_hidden_layers=54, intermediate_size=None, hidden_act="gelu", rms_norm_eps=1e-5,
                tie_word_embeddings=True,
                max_position_embeddings=4096, layers_block_type=None, mamba_d_state=64, mamba_d_conv=4,
                mamba_expand=2, mamba_ngroups=1, n_mamba_heads=8, time_step_min=0.001, add_bias_linear=False,
                num_mem_blocks=1, use_shared_attention_adapter=False, adapter_rank=128, use_mem_rope=False,
                use_long_context=False,
            ),
            rules=(shared_block_rules.zamba2,),
            aliases={"head_dim": "attention_head_dim"},
            uneven_heads="round_down",
            value_types={
                "attention_head_dim": (int,), "attention_hidden_size": (int,), "mamba_headdim": (int,),
                "hybrid_layer_ids": (list,),
            },
            required_values={"layer_types": None},  # of these the class takes no note of where blocks are
            always_unsupported=(shared_block_rules.NOT_BUILT,),
            ignored_keys={
                **_INITIAL_STEPS,
                **dict.fromkeys(
                    (
                        "use_conv_bias", "use_mem_eff_path", "kv_channels", "num_query_groups", "lora_rank",
                        "ffn_hidden_size", "state_size", "conv_dimension", "expansion_factor", "ft_lora",
                        "gated_linear_unit", "sliding_window", "use_shared_mlp_adapter",
                        "use_shared_block_lora", "use_shared_attention_lora",
                    ),
                    ANY,
                ),
            },
        ),
    ),
}
# fmt: on
