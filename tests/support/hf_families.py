"""Architectures as Hugging Face names them: our config as theirs."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import transformers as hf
from support.published_counts import PUBLISHED

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import PRESETS, preset
from parambudget.arch.rope_scaling import RopeScaling
from parambudget.formats.hf.exporter import EXPORTABLE, to_hf


class Family(NamedTuple):
    """One class of Hugging Face, and which of our models are of that class."""

    model_class: type[hf.PreTrainedModel]
    config: Callable[[ModelConfig], hf.PreTrainedConfig]
    example: ModelConfig
    """Has the family's choices; sizes are free."""
    published: tuple[str, ...] = ()
    """Presets that are exactly of this class."""
    grouped: bool = False
    """Heads may share keys and values, and need not add up to the width."""
    free_eps: bool = True
    """The config says what is added to a variance."""
    free_tie: bool = True
    """The head may be tied."""
    ffn_ratio: int | None = None
    """Width of the FFN over the width of the model, where the class leaves no choice."""


def config(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> hf.PreTrainedConfig:
    """The words that most classes share; what a class does not know it keeps and never reads."""
    rotation = {
        "rope_type": "default",
        "rope_theta": m.rope_theta,
        "partial_rotary_factor": m.rotary_fraction,
    }
    return config_class(
        hidden_size=m.dim,
        num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads,
        num_key_value_heads=m.n_kv_heads,
        head_dim=m.head_dim,
        intermediate_size=m.intermediate_size,
        vocab_size=m.vocab_size,
        max_position_embeddings=m.context_length,
        tie_word_embeddings=m.tied,
        rope_parameters=rotation,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )


def granite_multipliers(m: ModelConfig) -> dict[str, float | None]:
    """The same names, but that they divide the logits."""
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier")
    return {name: getattr(m, name) for name in names} | {"logits_scaling": 1 / m.logit_multiplier}


def granite(m: ModelConfig) -> hf.PreTrainedConfig:
    return config(hf.GraniteConfig, m, rms_norm_eps=m.norm_eps, **granite_multipliers(m))


def gpt(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> hf.PreTrainedConfig:
    """The words of the first two GPTs."""
    return config_class(
        n_embd=m.dim,
        n_layer=m.n_layers,
        n_head=m.n_heads,
        vocab_size=m.vocab_size,
        n_positions=m.context_length,
        tie_word_embeddings=m.tied,
        layer_norm_epsilon=m.norm_eps,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )


GPT1 = preset("gpt2").replace(norm_placement="post", final_norm=False)
NEMOTRON = preset("llama-3-8b").replace(
    norm="layernorm", norm_bias=True, gated=False, activation="relu2", rotary_fraction=0.5
)

FAMILIES = {
    "llama": Family(
        hf.LlamaForCausalLM,
        lambda m: config(hf.LlamaConfig, m, rms_norm_eps=m.norm_eps),
        preset("llama-3-8b"),
        ("smollm2-135m", "llama-3.2-1b", "llama-2-7b", "llama-3-8b", "llama-3-70b"),
        grouped=True,
    ),
    "qwen3": Family(
        hf.Qwen3ForCausalLM,
        lambda m: config(hf.Qwen3Config, m, rms_norm_eps=m.norm_eps),
        preset("qwen3-0.6b"),
        ("qwen3-0.6b", "qwen3-4b", "qwen3-32b"),
        grouped=True,
    ),
    "granite": Family(
        hf.GraniteForCausalLM,
        granite,
        preset("granite-3.1-2b").replace(logit_multiplier=0.125),
        ("granite-3.1-2b", "granite-3.1-8b"),
    ),
    "olmo": Family(
        hf.OlmoForCausalLM,
        lambda m: config(hf.OlmoConfig, m),
        preset("olmo-1b"),
        ("olmo-1b", "olmo-7b"),
        free_eps=False,
    ),
    "olmo2": Family(
        hf.Olmo2ForCausalLM,
        lambda m: config(hf.Olmo2Config, m, rms_norm_eps=m.norm_eps),
        preset("olmo-2-7b"),
        ("olmo-2-1b", "olmo-2-7b", "olmo-2-32b"),
        grouped=True,
    ),
    "nemotron": Family(
        hf.NemotronForCausalLM,
        lambda m: config(hf.NemotronConfig, m, norm_eps=m.norm_eps),
        NEMOTRON,
    ),
    "phi": Family(
        hf.PhiForCausalLM,
        lambda m: config(hf.PhiConfig, m, layer_norm_eps=m.norm_eps),
        preset("phi-1.5"),
        ("phi-1.5", "phi-2"),
    ),
    "gpt_neox": Family(
        hf.GPTNeoXForCausalLM,
        lambda m: config(
            hf.GPTNeoXConfig, m, layer_norm_eps=m.norm_eps, use_parallel_residual=m.block == "parallel"
        ),
        preset("pythia-70m"),
        ("pythia-70m", "pythia-410m", "pythia-6.9b", "gpt-neox-20b"),
    ),
    "gpt1": Family(hf.OpenAIGPTLMHeadModel, lambda m: gpt(hf.OpenAIGPTConfig, m), GPT1, ffn_ratio=4),
    "gpt2": Family(
        hf.GPT2LMHeadModel,
        lambda m: gpt(hf.GPT2Config, m, n_inner=m.intermediate_size),
        preset("gpt2"),
        ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
    ),
}


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


def exported(model_type: str) -> Callable[[ModelConfig], hf.PreTrainedConfig]:
    """The config that an export to the type writes, as its class reads it."""

    def read(m: ModelConfig) -> hf.PreTrainedConfig:
        document = to_hf(m, model_type).document
        return hf.AutoConfig.for_model(
            **document, attn_implementation="eager", experts_implementation="eager"
        )

    return read


def kin(
    model_type: str, like: str, *, grouped: bool = True, free_eps: bool = True, free_tie: bool = True,
    **choices: Any,
) -> Family:  # fmt: skip
    """A class whose models have the choices of a preset, but for some."""
    model_class = EXPORTABLE[model_type].model_class
    assert model_class is not None
    example = PRESETS[like].model.replace(**choices)
    if example.moe:
        example = example.replace(fused_experts=True)
    return Family(
        getattr(hf, model_class), exported(model_type), example, grouped=grouped, free_eps=free_eps,
        free_tie=free_tie,
    )  # fmt: skip


_PLAIN_GLM: Final = {"qkv_bias": False, "rotary_fraction": 1.0}
_HYBRID: Final = {
    "window": 4, "window_pattern": ("local", "global"), "rotary_pattern": ("rotary", "none"),
}  # fmt: skip
FAMILIES_BY_EXPORT = {
    "apertus": kin("apertus", "llama-3-8b", gated=False, activation="xielu", qk_norm="head", grouped=False),
    "aria_text": kin("aria_text", "mixtral-8x7b-v0.1", n_shared_experts=2, ffn_bias=True),
    "cohere2_moe": kin(
        "cohere2_moe",
        "mixtral-8x7b-v0.1",
        norm="layernorm",
        block="parallel_shared_norm",
        rotary_interleaved=True,
        logit_multiplier=0.25,
        window=4,
        window_pattern=("local", "global"),
        rotary_pattern=("rotary", "none"),
        router_scores="sigmoid",
        n_shared_experts=2,
    ),
    "cwm": kin("cwm", "llama-3-8b", window=4, window_pattern=("global", "local")),
    "dbrx": kin(
        "dbrx",
        "mixtral-8x7b-v0.1",
        norm="layernorm",
        qkv_clip=0.5,
        grouped=False,
        free_eps=False,
        free_tie=False,
    ),
    "dots1": kin("dots1", "glm-4.5", **_PLAIN_GLM, n_shared_experts=2),
    "ernie4_5": kin("ernie4_5", "llama-3-8b", rotary_interleaved=True),
    "exaone": kin("exaone", "llama-3-8b", grouped=False),
    "exaone4": kin("exaone4", "qwen3-0.6b", norm_placement="reordered", **_HYBRID),
    "exaone_moe": kin(
        "exaone_moe",
        "glm-4.5",
        **_PLAIN_GLM,
        window=4,
        window_pattern=("local", "global"),
        rotary_pattern=("rotary", "none"),
    ),
    "ernie4_5_moe": kin(
        "ernie4_5_moe",
        "mixtral-8x7b-v0.1",
        qkv_bias=True,
        attention_out_bias=True,
        ffn_bias=True,
        head_bias=True,
        tied=True,
        rotary_interleaved=True,
        n_shared_experts=2,
        n_first_dense=1,
        correction_bias=True,
        correction_counted=True,
    ),
    "flint": kin(
        "flint",
        "qwen3-30b-a3b",
        attention_sinks=True,
        window=4,
        window_pattern=("local", "global"),
        rotary_pattern=("rotary", "none"),
        router_scores="sigmoid",
        n_shared_experts=1,
        shared_intermediate_size=12,
    ),
    "flex_olmo": kin("flex_olmo", "olmoe-1b-7b", norm_placement="reordered"),
    "glm4_moe_lite": kin("glm4_moe_lite", "deepseek-v3", latent_norm_eps=1e-6),
    "granite_swa": kin(
        "granite_swa", "granite-3.1-2b", attention_sinks=True, rope_theta_local=500.0, **_HYBRID
    ),
    "granitemoe_swa": kin(
        "granitemoe_swa",
        "granite-3.0-1b-a400m",
        attention_sinks=True,
        window=4,
        window_pattern=("local", "global"),
        rotary_pattern=("rotary", "none", "rotary"),
        rope_theta_local=500.0,
        n_shared_experts=1,
        shared_intermediate_size=12,
    ),
    "granitemoeshared": kin(
        "granitemoeshared", "granite-3.0-1b-a400m", n_shared_experts=1, shared_intermediate_size=12
    ),
    "helium": kin("helium", "llama-3-8b", rotary_interleaved=True, grouped=False),
    "hyperclovax": kin(
        "hyperclovax", "granite-3.1-2b", norm_placement="sandwich", logit_multiplier=0.25, grouped=False
    ),
    "hy_v3": kin("hy_v3", "glm-4.5", **_PLAIN_GLM),
    "internlm3": kin("internlm3", "llama-3-8b", grouped=False),
    "iquestcoder": kin("iquestcoder", "llama-3-8b", grouped=False),
    "jais2": kin(
        "jais2",
        "llama-3-8b",
        norm="layernorm",
        norm_bias=True,
        gated=False,
        activation="relu2",
        qkv_bias=True,
        attention_out_bias=True,
        ffn_bias=True,
        grouped=False,
    ),
    "ministral": kin("ministral", "mistral-7b-v0.1", window_pattern=("local", "local", "global")),
    "ministral3": kin(
        "ministral3",
        "llama-3-8b",
        query_scale="log",
        query_scale_strength=0.3,
        query_scale_length=4,
        rope_scaling=RopeScaling(rope_type="yarn", rope_factor=16.0, rope_original_context=4),
    ),
    "biogpt": kin("biogpt", "gpt2", position_offset=2, activation="gelu", grouped=False, free_eps=False),
    "nanochat": kin(
        "nanochat",
        "llama-3-8b",
        norm_weight=False,
        embedding_norm=True,
        qk_norm="head",
        gated=False,
        activation="relu2",
        logit_softcap=15.0,
        grouped=False,
    ),
    "persimmon": kin(
        "persimmon",
        "pythia-70m",
        block="sequential",
        qk_norm="head",
        activation="relu2",
        rotary_fraction=0.5,
        grouped=False,
    ),
    "minimax_m2": kin(
        "minimax_m2",
        "olmoe-1b-7b",
        norm_expert_weights=True,
        rotary_fraction=0.5,
        router_scores="sigmoid",
        correction_bias=True,
    ),
    "mellum": kin(
        "mellum", "qwen3-30b-a3b", window=4, window_pattern=("local", "global"), rope_theta_local=500.0
    ),
    "olmo3": kin("olmo3", "olmo-2-7b", window=4, window_pattern=("local", "global"), rope_theta_local=500.0),
    "sarvam_mla": kin("sarvam_mla", "deepseek-v3", free_eps=False),
    "sarvam_moe": kin("sarvam_moe", "glm-4.5", **_PLAIN_GLM),
    "solar_open": kin("solar_open", "glm-4.5-air", rotary_fraction=1.0, n_first_dense=0),
    "afmoe": kin(
        "afmoe",
        "glm-4.5",
        **_PLAIN_GLM,
        norm_placement="sandwich",
        attention_gate="element",
        window=4,
        window_pattern=("local", "global"),
        rotary_pattern=("rotary", "none"),
        correction_counted=True,
    ),
    "axk1": kin("axk1", "deepseek-v3", experts_out_norm=True, latent_norm_eps=1e-6),
    "bitnet": kin("bitnet", "llama-3-8b", activation="relu2", sub_norms=True, grouped=False),
    "ctrl": kin(
        "ctrl",
        "gpt2",
        position="sinusoidal",
        activation="relu",
        head_bias=True,
        grouped=False,
        norm_eps=1e-6,
        embedding_multiplier=768**0.5,
        free_eps=False,
    ),
    "gemma4_text": kin(
        "gemma4_text",
        "gemma-4-26b-a4b",
        rope_theta_local=500.0,
        window_pattern=("local", "global"),
    ),
    "gemma4_e2b": kin(
        "gemma4_text", "gemma-4-e2b", n_layers=6, n_kv_shared_layers=3, window_pattern=("local", "global")
    ),
    "gemma4_unified_text": kin("gemma4_unified_text", "gemma-4-12b", window_pattern=("local", "global")),
    "hunyuan_v1_dense": kin("hunyuan_v1_dense", "qwen3-0.6b", qk_norm_after_rotation=True),
    "hunyuan_v1_moe": kin("hunyuan_v1_moe", "qwen3-30b-a3b", qk_norm_after_rotation=True, n_shared_experts=1),
    "diffllama": kin("diffllama", "llama-3-8b", differential_attention=True),
    "laguna": kin(
        "laguna",
        "glm-4.5",
        **_PLAIN_GLM,
        attention_gate="head",
        attention_gate_activation="softplus",
        window=4,
        window_pattern=("global", "local"),
        rotary_fraction_local=0.5,
        rope_theta_local=500.0,
        correction_counted=True,
    ),
    "kolibri1": kin(
        "kolibri1",
        "qwen3-30b-a3b",
        norm_placement="sandwich",
        router_scores="sigmoid",
        correction_bias=True,
        correction_on_logits=True,
        n_shared_experts=1,
        shared_intermediate_size=12,
        window=4,
        window_pattern=("local", "global"),
        rotary_pattern=("rotary", "none"),
    ),
    "llama4_text": kin("llama4_text", "llama-4-scout", query_scale_length=4),
    "llama4_text_with_dense_layers": kin("llama4_text", "llama-4-maverick", query_scale_length=4),
    "mimo_v2_flash": kin(
        "mimo_v2_flash",
        "mimo-v2-flash",
        window_pattern=("global", "local"),
        rotary_fraction=0.5,
        rotary_fraction_local=0.25,
    ),
    "phimoe": kin("phimoe", "phi-3.5-moe", window_pattern=("local",)),
    "xglm": kin(
        "xglm",
        "gpt2",
        position="sinusoidal",
        position_offset=2,
        activation="gelu",
        grouped=False,
        free_eps=False,
    ),
    "deepseek_v32": kin(
        "deepseek_v32", "deepseek-v3", free_eps=False, n_index_heads=16, index_head_dim=64, index_top_k=5
    ),
    "glm_moe_dsa": kin(
        "glm_moe_dsa",
        "deepseek-v3",
        latent_norm_eps=1e-6,
        n_index_heads=16,
        index_head_dim=64,
        index_top_k=5,
        index_rotary_interleaved=True,
        indexer_pattern=("own", "shared"),
    ),
    "vaultgemma": kin("vaultgemma", "gemma-2-2b", norm_placement="pre", grouped=False),
    "youtu": kin("youtu", "deepseek-v3", moe=None, latent_norm_eps=1e-6),
}
_DELTA: Final = {
    "mixer_pattern": ("attention", "gated_delta_net"), "delta_n_key_heads": 2, "delta_n_value_heads": 4,
    "delta_key_dim": 6, "delta_value_dim": 10, "delta_conv_width": 3, "attention_gate": "element",
    "rotary_fraction": 0.5,
}  # fmt: skip
_CONVOLUTIONS: Final = {
    "mixer_pattern": ("attention", "short_convolution"), "short_conv_width": 3, "short_conv_bias": True,
}  # fmt: skip
FAMILIES_BY_EXPORT |= {
    "bailing_hybrid": kin(
        "bailing_hybrid",
        "moonlight-16b-a3b",
        free_eps=False,
        free_tie=False,
        attention_gate="head",
        rotary_interleaved=True,
        mixer_pattern=("attention", "gated_delta_net"),
        delta_n_key_heads=16,
        delta_n_value_heads=16,
        delta_key_dim=6,
        delta_value_dim=6,
        delta_channel_decay=True,
        delta_gate_activation="sigmoid",
        delta_decay_bound=4.0,
    ),
    "kimi_linear": kin(
        "kimi_linear",
        "moonlight-16b-a3b",
        free_eps=False,
        free_tie=False,
        position="none",
        rope_theta=10_000.0,
        rotary_interleaved=False,
        mixer_pattern=("attention", "gated_delta_net"),
        delta_n_key_heads=3,
        delta_n_value_heads=3,
        delta_key_dim=6,
        delta_value_dim=6,
        delta_gate_rank=6,
        delta_channel_decay=True,
        delta_gate_activation="sigmoid",
    ),
    "lfm2": kin("lfm2", "qwen3-0.6b", **_CONVOLUTIONS),
    "lfm2_moe": kin(
        "lfm2_moe",
        "qwen3-30b-a3b",
        **_CONVOLUTIONS,
        router_scores="sigmoid",
        correction_bias=True,
        n_first_dense=1,
        routing_multiplier=2.0,
    ),
    "lfm3": kin(
        "lfm3",
        "qwen3-0.6b",
        mixer_pattern=("attention", "short_convolution", "attention"),
        short_conv_width=4,
        norm_placement="sandwich",
        attention_gate="head",
        window=4,
        window_pattern=("local", "global", "global"),
        rope_theta_local=500.0,
    ),
    "minimax": kin(
        "minimax",
        "mixtral-8x7b-v0.1",
        mixer_pattern=("attention", "lightning_attention"),
        lightning_n_heads=2,
        lightning_norm_eps=1e-6,
        norm_placement="stream",
        stream_multiplier=1.5,
        residual_multiplier=0.5,
    ),
    "olmo_hybrid": kin(
        "olmo_hybrid",
        "olmo-2-7b",
        mixer_pattern=("attention", "gated_delta_net"),
        # Transformers splits the joined convolution into three equal parts when it saves.
        delta_n_key_heads=2,
        delta_n_value_heads=4,
        delta_key_dim=6,
        delta_value_dim=3,
        delta_negative_eigenvalues=True,
        delta_norm_eps=1e-5,
        mixer_pre_norm=True,
    ),
    "qwen3_5_moe_text": kin(
        "qwen3_5_moe_text",
        "qwen3-30b-a3b",
        **_DELTA,
        n_shared_experts=1,
        shared_intermediate_size=12,
        shared_expert_gate=True,
    ),
    "qwen3_5_text": kin("qwen3_5_text", "qwen3-0.6b", **_DELTA),
    "qwen3_next": kin(
        "qwen3_next",
        "qwen3-30b-a3b",
        **_DELTA,
        n_shared_experts=1,
        shared_intermediate_size=12,
        shared_expert_gate=True,
        norm_expert_weights=False,
    ),
    "recurrent_gemma": kin(
        "recurrent_gemma",
        "gemma-2b",
        mixer_pattern=("attention", "rg_lru"),
        lru_n_blocks=2,
        lru_block_width=4,
        qkv_bias=True,
        attention_out_bias=True,
        ffn_bias=True,
        rotary_fraction=0.5,
        logit_softcap=5.0,
        window=4,
        context_length=8192,
    ),
}
"""The class's config is the one that an export writes, so that these tests hold exports too."""


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


FAMILIES_BY_POSITION = {
    "mistral": Family(
        hf.MistralForCausalLM,
        lambda m: config(hf.MistralConfig, m, rms_norm_eps=m.norm_eps, sliding_window=m.window),
        preset("mistral-7b-v0.1"),
        ("mistral-7b-v0.1", "mistral-nemo-12b"),
        grouped=True,
    ),
    "gemma2": Family(
        hf.Gemma2ForCausalLM,
        lambda m: gemma(hf.Gemma2Config, m),
        preset("gemma-2-2b"),
        ("gemma-2-2b", "gemma-2-9b", "gemma-2-27b"),
        grouped=True,
    ),
    "gemma3": Family(
        hf.Gemma3ForCausalLM,
        lambda m: gemma(hf.Gemma3TextConfig, m),
        preset("gemma-3-1b"),
        ("gemma-3-270m", "gemma-3-1b"),
        grouped=True,
    ),
    "gpt_oss": Family(
        hf.GptOssForCausalLM,
        gpt_oss,
        preset("gpt-oss-20b").replace(fused_experts=True),
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
        preset("smollm3-3b"),
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
        preset("command-r-plus"),
        ("command-r-plus",),
    ),
    "glm4": Family(
        hf.Glm4ForCausalLM,
        lambda m: config(hf.Glm4Config, m, rms_norm_eps=m.norm_eps, attention_bias=m.qkv_bias),
        preset("glm-4-9b-0414"),
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
}


def falcon(m: ModelConfig) -> hf.PreTrainedConfig:
    """Two norms in a parallel block are the mark of the newer of its architectures."""
    newer = m.block == "parallel"
    return hf.FalconConfig(
        hidden_size=m.dim,
        num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads,
        num_kv_heads=m.n_kv_heads,
        multi_query=not newer and m.n_kv_heads == 1,
        new_decoder_architecture=newer,
        ffn_hidden_size=m.intermediate_size,
        vocab_size=m.vocab_size,
        max_position_embeddings=m.context_length,
        tie_word_embeddings=m.tied,
        layer_norm_epsilon=m.norm_eps,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def starcoder2(m: ModelConfig) -> hf.PreTrainedConfig:
    return config(hf.Starcoder2Config, m, norm_epsilon=m.norm_eps, sliding_window=m.window)


def cohere2(m: ModelConfig) -> hf.PreTrainedConfig:
    own = windows(m) | {"layer_norm_eps": m.norm_eps, "logit_scale": m.logit_multiplier}
    return config(hf.Cohere2Config, m, **own)


FAMILIES_OF_KIN = {
    "qwen2": Family(
        hf.Qwen2ForCausalLM,
        lambda m: config(hf.Qwen2Config, m, rms_norm_eps=m.norm_eps),
        preset("qwen2.5-0.5b"),
        grouped=True,
    ),
    "gemma": Family(
        hf.GemmaForCausalLM,
        lambda m: config(hf.GemmaConfig, m, rms_norm_eps=m.norm_eps),
        preset("gemma-2b"),
        grouped=True,
    ),
    "glm": Family(
        hf.GlmForCausalLM,
        lambda m: config(hf.GlmConfig, m, rms_norm_eps=m.norm_eps, attention_bias=m.qkv_bias),
        preset("glm-4-9b"),
        grouped=True,
    ),
    "phi3": Family(
        hf.Phi3ForCausalLM,
        lambda m: config(hf.Phi3Config, m, rms_norm_eps=m.norm_eps, sliding_window=m.window),
        preset("phi-3-mini"),
        grouped=True,
    ),
    "starcoder2": Family(hf.Starcoder2ForCausalLM, starcoder2, preset("starcoder2-3b"), grouped=True),
    "cohere2": Family(hf.Cohere2ForCausalLM, cohere2, preset("command-r7b")),
    "falcon-7b": Family(hf.FalconForCausalLM, falcon, preset("falcon-7b")),
    "falcon-40b": Family(hf.FalconForCausalLM, falcon, preset("falcon-40b")),
    "gpt_bigcode": Family(
        hf.GPTBigCodeForCausalLM,
        lambda m: gpt(
            hf.GPTBigCodeConfig, m, n_inner=m.intermediate_size, multi_query=m.n_kv_heads < m.n_heads
        ),
        preset("starcoderbase-1b"),
    ),
}


def gemma3n(m: ModelConfig) -> hf.PreTrainedConfig:
    """Its positions change no count."""
    parts = m.counted_parts
    assert parts is not None
    return hf.Gemma3nTextConfig(
        hidden_size=m.dim,
        num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads,
        num_key_value_heads=m.n_kv_heads,
        head_dim=m.head_dim,
        intermediate_size=m.intermediate_size,
        vocab_size=m.vocab_size,
        tie_word_embeddings=m.tied,
        num_kv_shared_layers=m.n_kv_shared_layers,
        hidden_size_per_layer_input=m.per_layer_embedding_dim or 0,
        vocab_size_per_layer_input=m.per_layer_vocab_size or m.vocab_size,
        altup_num_inputs=parts.n_altup_streams,
        laurel_rank=parts.laurel_rank,
        **windows(m),
    )


COUNTED_ALONE = {
    "Gemma3nForCausalLM": gemma3n,
    "CodeGenForCausalLM": lambda m: gpt(hf.CodeGenConfig, m, n_inner=m.intermediate_size),
}
"""Classes whose presets are counted, and whose logits are held against ours elsewhere (CodeGen, in
test_weights), or which have no module of ours."""


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
