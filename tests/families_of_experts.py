"""Architectures with experts as Hugging Face names them."""

from collections.abc import Callable

import transformers as hf
from families import Family, config, granite_multipliers
from published import PUBLISHED

from parambudget.arch.config import ModelConfig


def moe_config(
    config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object
) -> hf.PreTrainedConfig:
    """The words for experts; what a class does not know it keeps and never reads."""
    moe = m.moe
    assert moe is not None
    own = moe.shared_intermediate_size or moe.expert_intermediate_size
    words = dict(
        # Their grouped product wants rows of 16 bytes.
        experts_implementation="eager",
        rms_norm_eps=m.norm_eps,
        attention_bias=m.qkv_bias,
        use_qk_norm=m.qk_norm == "head",
        n_routed_experts=moe.n_experts,
        num_experts=moe.n_experts,
        num_local_experts=moe.n_experts,
        num_experts_per_tok=moe.n_experts_per_token,
        moe_intermediate_size=moe.expert_intermediate_size,
        n_shared_experts=moe.n_shared_experts,
        shared_expert_intermediate_size=moe.n_shared_experts * own,
        norm_topk_prob=moe.norm_expert_weights,
        routed_scaling_factor=moe.routing_multiplier,
        n_group=moe.n_expert_groups,
        topk_group=moe.n_groups_per_token,
        first_k_dense_replace=moe.n_first_dense,
        mlp_only_layers=[layer for layer in range(m.n_layers) if not m.has_experts(layer)],
    )
    return config(config_class, m, **words | more)


def every_layer(
    config_class: type[hf.PreTrainedConfig], **more: object
) -> Callable[..., hf.PreTrainedConfig]:
    """The same of classes without dense layers, where intermediate_size is the width of an expert."""

    def read(m: ModelConfig) -> hf.PreTrainedConfig:
        assert m.moe is not None
        return moe_config(config_class, m.replace(intermediate_size=m.moe.expert_intermediate_size), **more)

    return read


def latent_config(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> object:
    assert m.mla is not None
    names = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    words = {name: getattr(m.mla, name) for name in names}
    return moe_config(config_class, m.replace(mla=None, head_dim=m.mla.qk_rope_head_dim), **words, **more)


def family(
    model_class: type[hf.PreTrainedModel],
    read: Callable[[ModelConfig], hf.PreTrainedConfig],
    name: str,
    *others: str,
    grouped: bool = True,
) -> Family:
    example = PUBLISHED[name].model.replace(fused_experts=True)
    # Norms of latents have an epsilon of 1e-6, whatever the config says.
    free_eps = example.mla is None
    return Family(model_class, read, example, (name, *others), grouped=grouped, free_eps=free_eps)


FAMILIES_OF_EXPERTS = {
    "mixtral": family(hf.MixtralForCausalLM, every_layer(hf.MixtralConfig), "mixtral-8x7b-v0.1"),
    "qwen3_moe": family(hf.Qwen3MoeForCausalLM, lambda m: moe_config(hf.Qwen3MoeConfig, m), "qwen3-30b-a3b"),
    "qwen2_moe": family(
        hf.Qwen2MoeForCausalLM, lambda m: moe_config(hf.Qwen2MoeConfig, m), "qwen1.5-moe-a2.7b"
    ),
    "olmoe": family(hf.OlmoeForCausalLM, every_layer(hf.OlmoeConfig), "olmoe-1b-7b", grouped=False),
    "granitemoe": family(
        hf.GraniteMoeForCausalLM,
        lambda m: every_layer(hf.GraniteMoeConfig, **granite_multipliers(m))(m),
        "granite-3.0-1b-a400m",
    ),
    "deepseek_v2": family(
        hf.DeepseekV2ForCausalLM, lambda m: latent_config(hf.DeepseekV2Config, m), "deepseek-v2-lite"
    ),
    "deepseek_v3": family(
        hf.DeepseekV3ForCausalLM, lambda m: latent_config(hf.DeepseekV3Config, m), "deepseek-v3", "kimi-k2"
    ),
    "glm4_moe": family(hf.Glm4MoeForCausalLM, lambda m: moe_config(hf.Glm4MoeConfig, m), "glm-4.5-air"),
}
