"""Config classes with multi-head latent attention: their keys, and their own defaults written out.

Read from the classes of transformers 5 and held against them in tests/formats/test_hf_importer.py, which
draws their switches at random and compares total and breakdown. docs/families.md says how to add a family.
Their layers for multi-token prediction are no part of the classes.
"""

from collections.abc import Mapping
from typing import Final

from parambudget.formats.hf import layer_rules
from parambudget.formats.hf.schema import ANY, LLAMA, UNREAD, Family, llama_defaults, without

_KEYS: Final = without(LLAMA, "head_dim", "n_kv_heads")
_LATENT_NORMS: Final = {"rms_norm_eps": "norms of latents at 1e-06, whatever rms_norm_eps says"}
_INERT: Final = {
    "ep_size": ANY, "head_dim": ANY, "moe_layer_freq": 1, "num_key_value_heads": ANY, "qk_head_dim": ANY,
    "seq_aux": ANY,
}  # fmt: skip

# fmt: off
_DEEPSEEK_V3: Final = Family(
    _KEYS,
    llama_defaults(
        num_key_value_heads=UNREAD, head_dim=UNREAD, hidden_size=7168, num_hidden_layers=61,
        num_attention_heads=128, intermediate_size=18432,
        vocab_size=129280, max_position_embeddings=4096, attention_bias=False, q_lora_rank=1536,
        kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
        moe_intermediate_size=2048, num_experts_per_tok=8, n_shared_experts=1, n_routed_experts=256,
        routed_scaling_factor=2.5, n_group=8, topk_group=4, first_k_dense_replace=3, norm_topk_prob=True,
        rope_interleave=True,
    ),
    derive=(layer_rules.latent, layer_rules.interleaved, layer_rules.deepseek3),
    aliases={"num_local_experts": "n_routed_experts"},
    nullable=frozenset({"norm_topk_prob", "q_lora_rank", "rope_interleave"}),
    unsaid={"rms_norm_eps": 1e-6},
    wording=_LATENT_NORMS,
    inert=_INERT | {"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
)

LATENT_LIKE: Final[Mapping[str, Family]] = {
    "deepseek_v2": Family(
        _KEYS | {"ffn_bias": "mlp_bias"},
        llama_defaults(
            num_key_value_heads=UNREAD, head_dim=UNREAD, vocab_size=102400, attention_bias=False,
            mlp_bias=False, q_lora_rank=1536, kv_lora_rank=512,
            qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, moe_intermediate_size=1407,
            num_experts_per_tok=None, n_shared_experts=2, n_routed_experts=64, routed_scaling_factor=1.0,
            n_group=None, topk_group=None, topk_method="greedy", first_k_dense_replace=0,
        ),
        {"rotary_interleaved": True},
        (layer_rules.latent, layer_rules.deepseek2),
        aliases={"num_experts": "n_routed_experts"},
        nullable=frozenset({"q_lora_rank"}),
        heads="divide",
        unsaid={"rms_norm_eps": 1e-6},
        wording=_LATENT_NORMS,
        inert=_INERT | {"norm_topk_prob": False, "scoring_func": "softmax"},
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,
}
# fmt: on
