"""Names of tensors in checkpoints of classes in the line of GPT-2.

Read from the classes of transformers 5.24; the names are those of published checkpoints.
"""

from typing import Final

from parambudget.build.names.rows import (
    AS_IT_IS,
    BY_KV_HEAD,
    IN_FOUR,
    ONE_AFTER_ANOTHER,
    Row,
    Way,
    fused,
    plain,
    transposed,
)

_QKV: Final = ("layers.*.attention.q", "layers.*.attention.k", "layers.*.attention.v")
_GPT: Final = {
    "embed": "transformer.wte", "position": "transformer.wpe", "norm": "transformer.ln_f",
    "lm_head": "lm_head", "layers.*.attention_norm": "transformer.h.*.ln_1",
    "layers.*.ffn_norm": "transformer.h.*.ln_2",
}  # fmt: skip
_GPT_1: Final = _GPT | {"embed": "transformer.tokens_embed", "position": "transformer.positions_embed"}
_MATRICES: Final = {
    "layers.*.attention.out": "transformer.h.*.attn.c_proj", "layers.*.ffn.up": "transformer.h.*.mlp.c_fc",
    "layers.*.ffn.down": "transformer.h.*.mlp.c_proj",
}  # fmt: skip
_TURNED: Final = {
    "layers.*.attention.out": "transformer.h.*.attn.out_proj",
    "layers.*.ffn.up": "transformer.h.*.mlp.fc_in", "layers.*.ffn.down": "transformer.h.*.mlp.fc_out",
}  # fmt: skip
_FALCON: Final = {
    "embed": "transformer.word_embeddings", "norm": "transformer.ln_f", "lm_head": "lm_head",
    "layers.*.attention_norm": "transformer.h.*.input_layernorm",
    "layers.*.ffn_norm": "transformer.h.*.post_attention_layernorm",
    "layers.*.attention.out": "transformer.h.*.self_attention.dense",
    "layers.*.ffn.up": "transformer.h.*.mlp.dense_h_to_4h",
    "layers.*.ffn.down": "transformer.h.*.mlp.dense_4h_to_h",
}  # fmt: skip
_FALCON_QKV: Final = fused("transformer.h.*.self_attention.query_key_value", *_QKV, way=BY_KV_HEAD)
_NEOX: Final = "gpt_neox.layers.*"
_OPT: Final = "model.decoder"


def _gpt(around: dict[str, str], qkv: Way, matrices: Way = AS_IT_IS) -> tuple[Row, ...]:
    """Queries, keys and values in one."""
    return (
        *plain(around),
        *plain(_MATRICES, matrices),
        fused("transformer.h.*.attn.c_attn", *_QKV, way=qkv),
    )


FALCON_OF_TWO_NORMS: Final = (
    *plain(
        _FALCON
        | {
            "layers.*.attention_norm": "transformer.h.*.ln_attn",
            "layers.*.ffn_norm": "transformer.h.*.ln_mlp",
        }
    ),
    _FALCON_QKV,
)
"""Falcon where both branches have a norm of their own, side by side."""

GPT_LIKE: Final[dict[str, tuple[Row, ...]]] = {
    "bloom": (*plain(_FALCON | {"embed_norm": "transformer.word_embeddings_layernorm"}), _FALCON_QKV),
    "codegen": (
        *plain(_GPT | _TURNED),
        fused("transformer.h.*.attn.qkv_proj", _QKV[0], _QKV[2], _QKV[1], way=IN_FOUR),
    ),
    "falcon": (*plain(_FALCON), _FALCON_QKV),
    # Matrices are (in, out) in the first two GPTs.
    "gpt2": _gpt(_GPT, transposed(ONE_AFTER_ANOTHER), transposed(AS_IT_IS)),
    "gpt_bigcode": _gpt(_GPT, BY_KV_HEAD),
    "gpt_neo": plain(
        _GPT
        | _MATRICES
        | {
            "layers.*.attention.q": "transformer.h.*.attn.attention.q_proj",
            "layers.*.attention.k": "transformer.h.*.attn.attention.k_proj",
            "layers.*.attention.v": "transformer.h.*.attn.attention.v_proj",
            "layers.*.attention.out": "transformer.h.*.attn.attention.out_proj",
        }
    ),
    "gpt_neox": (
        *plain(
            {
                "embed": "gpt_neox.embed_in",
                "norm": "gpt_neox.final_layer_norm",
                "lm_head": "embed_out",
                "layers.*.attention_norm": f"{_NEOX}.input_layernorm",
                "layers.*.ffn_norm": f"{_NEOX}.post_attention_layernorm",
                "layers.*.attention.out": f"{_NEOX}.attention.dense",
                "layers.*.ffn.up": f"{_NEOX}.mlp.dense_h_to_4h",
                "layers.*.ffn.down": f"{_NEOX}.mlp.dense_4h_to_h",
            }
        ),
        fused(f"{_NEOX}.attention.query_key_value", *_QKV, way=BY_KV_HEAD),
    ),
    "gptj": plain(
        _GPT
        | _TURNED
        | {
            "layers.*.attention.q": "transformer.h.*.attn.q_proj",
            "layers.*.attention.k": "transformer.h.*.attn.k_proj",
            "layers.*.attention.v": "transformer.h.*.attn.v_proj",
        }
    ),
    "mpt": (
        *plain(
            {
                "embed": "transformer.wte",
                "norm": "transformer.norm_f",
                "lm_head": "lm_head",
                "layers.*.attention_norm": "transformer.blocks.*.norm_1",
                "layers.*.ffn_norm": "transformer.blocks.*.norm_2",
                "layers.*.attention.out": "transformer.blocks.*.attn.out_proj",
                "layers.*.ffn.up": "transformer.blocks.*.ffn.up_proj",
                "layers.*.ffn.down": "transformer.blocks.*.ffn.down_proj",
            }
        ),
        fused("transformer.blocks.*.attn.Wqkv", *_QKV, way=ONE_AFTER_ANOTHER),
    ),
    "openai-gpt": _gpt(_GPT_1, transposed(ONE_AFTER_ANOTHER), transposed(AS_IT_IS)),
    "opt": plain(
        {
            "embed": f"{_OPT}.embed_tokens",
            "position": f"{_OPT}.embed_positions",
            "project_in": f"{_OPT}.project_in",
            "project_out": f"{_OPT}.project_out",
            "norm": f"{_OPT}.final_layer_norm",
            "lm_head": "lm_head",
            "layers.*.attention_norm": f"{_OPT}.layers.*.self_attn_layer_norm",
            "layers.*.ffn_norm": f"{_OPT}.layers.*.final_layer_norm",
            "layers.*.attention.q": f"{_OPT}.layers.*.self_attn.q_proj",
            "layers.*.attention.k": f"{_OPT}.layers.*.self_attn.k_proj",
            "layers.*.attention.v": f"{_OPT}.layers.*.self_attn.v_proj",
            "layers.*.attention.out": f"{_OPT}.layers.*.self_attn.out_proj",
            "layers.*.ffn.up": f"{_OPT}.layers.*.fc1",
            "layers.*.ffn.down": f"{_OPT}.layers.*.fc2",
        }
    ),
}
