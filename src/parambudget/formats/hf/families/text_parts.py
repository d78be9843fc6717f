"""Language models of image-text and omni models that equal a family known otherwise.

Their classes have positions in three dimensions (M-RoPE), all the same where there is only text: rotary
positions as usual. Transformers has them within the whole model, without a head of their own, so none is
exported to. `formats/hf/multimodal.py` says where the config of a whole model has them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from parambudget.formats.hf import expert_rules, rules
from parambudget.formats.hf.families.deepseek import DEEPSEEK_FAMILIES
from parambudget.formats.hf.families.llama import LLAMA_FAMILIES
from parambudget.formats.hf.families.moe import MOE_FAMILIES
from parambudget.formats.hf.families.sliding_window import SLIDING_WINDOW_FAMILIES
from parambudget.formats.hf.schema import ABSENT, UNREAD, Family, Rule

_LLAMA: Final = LLAMA_FAMILIES["llama"]
_GLM4: Final = LLAMA_FAMILIES["glm4"]
_GLM4_MOE: Final = DEEPSEEK_FAMILIES["glm4_moe"]
_GRANITE: Final = LLAMA_FAMILIES["granite"]
_QWEN2: Final = SLIDING_WINDOW_FAMILIES["qwen2"]
_QWEN3: Final = SLIDING_WINDOW_FAMILIES["qwen3"]
_QWEN3_MOE: Final = MOE_FAMILIES["qwen3_moe"]


def _like(
    family: Family, rules: tuple[Rule, ...] | None = None, fixed: Mapping[str, Any] | None = None,
    nullable: frozenset[str] = frozenset({"num_key_value_heads"}),
    uneven_heads: Literal["need_head_dim", "refuse", "round_down"] | None = None,
    aliases: Mapping[str, str] | None = None, **defaults: Any,
) -> Family:  # fmt: skip
    """The family with other defaults; UNREAD for a key that this class does not read."""
    schema = family.config
    known = {key: value for key, value in {**schema.defaults, **defaults}.items() if value is not UNREAD}
    config = replace(
        schema,
        keys={field: key for field, key in schema.keys.items() if key in known},
        defaults=known,
        rules=schema.rules if rules is None else rules,
        fixed=schema.fixed if fixed is None else fixed,
        nullable=nullable,
        uneven_heads=uneven_heads or schema.uneven_heads,
        aliases=schema.aliases if aliases is None else aliases,
        rope_type_aliases={"mrope": "default"},
    )
    return replace(family, model_class=None, config=config)


def _qwen_vl(family: Family) -> Family:
    """Qwen 2 and 2.5 with images; the defaults are those of the largest model."""
    return _like(
        family, hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=29568, vocab_size=152064, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
        max_window_layers=80, head_dim=UNREAD, uneven_heads="refuse",
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
    )  # fmt: skip


# fmt: off
TEXT_PART_FAMILIES: Final[Mapping[str, Family]] = {
    "glm4v_moe_text": _like(
        _GLM4_MOE, rules=(expert_rules.deepseek_v3_moe,), nullable=frozenset(), hidden_size=4096,
        vocab_size=151424, max_position_embeddings=65536, attention_bias=True, use_qk_norm=UNREAD,
    ),
    "glm4v_text": _like(
        _GLM4, fixed={**_GLM4.config.fixed, "qkv_bias": True}, attention_bias=UNREAD, head_dim=UNREAD,
        max_position_embeddings=32768, rms_norm_eps=1e-5, partial_rotary_factor=1.0,
    ),
    "glm_ocr_text": _like(
        _GLM4, fixed={**_GLM4.config.fixed, "qkv_bias": False}, attention_bias=UNREAD, head_dim=ABSENT,
        hidden_size=1024, num_hidden_layers=16, num_attention_heads=16, num_key_value_heads=8,
        intermediate_size=4096, vocab_size=59392, rms_norm_eps=1e-5, partial_rotary_factor=1.0,
    ),
    "granite4_vision_text": _like(_GRANITE),
    "granite_docling_text": _like(
        _GRANITE, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=4,
        intermediate_size=2048, vocab_size=133800, max_position_embeddings=32768, rms_norm_eps=1e-5,
        tie_word_embeddings=True, embedding_multiplier=12.0, logits_scaling=4.0, residual_multiplier=0.263,
        attention_multiplier=0.015625,
    ),
    "paddleocr_vl_text": _like(
        _LLAMA, rules=(rules.starcoder2_biases,), attention_bias=UNREAD, mlp_bias=UNREAD, use_bias=False,
        hidden_size=1024, num_hidden_layers=18, num_attention_heads=16, num_key_value_heads=2, head_dim=128,
        intermediate_size=3072, vocab_size=103424, max_position_embeddings=131072, rms_norm_eps=1e-5,
        rope_theta=500_000.0, tie_word_embeddings=True,
        nullable=frozenset({"head_dim", "num_key_value_heads"}),
    ),
    "qwen2_5_omni_text": _like(
        _QWEN2, hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        intermediate_size=18944, vocab_size=152064, rope_theta=1_000_000.0, sliding_window=32768,
        tie_word_embeddings=True, nullable=frozenset({"num_key_value_heads", "sliding_window"}),
    ),
    "qwen2_5_vl_text": _qwen_vl(_QWEN2),
    "qwen2_vl_text": _qwen_vl(_QWEN2),
    "qwen3_omni_moe_text": _like(
        _QWEN3_MOE, rules=(rules.attention_bias, expert_rules.qwen_moe), nullable=frozenset(),
        uneven_heads="round_down", aliases={}, head_dim=ABSENT,
        num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944,
        vocab_size=3584, rope_theta=1_000_000.0, norm_topk_prob=True, use_sliding_window=UNREAD,
        sliding_window=UNREAD,
    ),
    "qwen3_vl_moe_text": _like(
        _QWEN3_MOE, rules=(rules.attention_bias, expert_rules.qwen3_vl_moe), nullable=frozenset(),
        num_attention_heads=16, num_key_value_heads=16, head_dim=None, intermediate_size=5632,
        max_position_embeddings=128000, rope_theta=500_000.0, tie_word_embeddings=True,
        moe_intermediate_size=1408, num_experts_per_tok=4, num_experts=60, norm_topk_prob=UNREAD,
        use_sliding_window=UNREAD, sliding_window=UNREAD,
    ),
    "qwen3_vl_text": _like(
        _QWEN3, rules=(rules.attention_bias,), max_position_embeddings=128000, rope_theta=500_000.0,
        use_sliding_window=UNREAD, sliding_window=UNREAD, max_window_layers=UNREAD, layer_types=UNREAD,
    ),
}
# fmt: on
