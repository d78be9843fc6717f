"""Names of the classes in the line of GPT-2.

Read from what the classes of transformers 5 save, and held against them in tests/formats/test_hf_weights.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.build.names.names import Names, Parts
from parambudget.build.names.ways import CODEGEN, HEADS, TURNED

_QKV: Final = ("attention.q", "attention.k", "attention.v")
_GPT2: Final = Names(
    {
        "transformer.wte": "embed", "transformer.wpe": "position", "transformer.ln_f": "norm",
        "lm_head": "lm_head",
    },
    "transformer.h",
    {
        "ln_1": "attention_norm", "attn.c_attn": _QKV, "attn.c_proj": "attention.out", "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down",
    },
    "transformer.",
    ways=dict.fromkeys(("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), TURNED),
)  # fmt: skip
_IN_NEOX: Final[Mapping[str, Parts]] = {
    "mlp.dense_h_to_4h": "ffn.up", "mlp.dense_4h_to_h": "ffn.down", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_BLOOM: Final = Names(
    {
        "transformer.word_embeddings": "embed", "transformer.word_embeddings_layernorm": "embed_norm",
        "transformer.ln_f": "norm", "lm_head": "lm_head",
    },
    "transformer.h",
    {
        "self_attention.query_key_value": _QKV, "self_attention.dense": "attention.out", **_IN_NEOX,
    },
    "transformer.",
    ways={"self_attention.query_key_value": HEADS},
)  # fmt: skip
_NEOX_TOP: Final[Mapping[str, Parts]] = {
    "gpt_neox.embed_in": "embed", "gpt_neox.final_layer_norm": "norm", "embed_out": "lm_head",
}  # fmt: skip
_NEOX: Final = Names(
    _NEOX_TOP,
    "gpt_neox.layers",
    {"attention.query_key_value": _QKV, "attention.dense": "attention.out", **_IN_NEOX},
    "gpt_neox.",
    ways={"attention.query_key_value": HEADS},
)
_IN_GPTJ: Final[Mapping[str, Parts]] = {
    "ln_1": "attention_norm", "attn.out_proj": "attention.out", "mlp.fc_in": "ffn.up",
    "mlp.fc_out": "ffn.down",
}  # fmt: skip
_GPTJ: Final = Names(
    {"transformer.wte": "embed", "transformer.ln_f": "norm", "lm_head": "lm_head"},
    "transformer.h",
    {
        "attn.q_proj": "attention.q", "attn.k_proj": "attention.k", "attn.v_proj": "attention.v", **_IN_GPTJ,
    },
    "transformer.",
)  # fmt: skip

GPT_LIKE: Final[Mapping[str, Names]] = {
    "bloom": _BLOOM,
    "codegen": replace(
        _GPTJ, block={"attn.qkv_proj": _QKV, **_IN_GPTJ}, ways={"attn.qkv_proj": CODEGEN}
    ),
    "falcon": replace(
        _BLOOM,
        parallel={
            **{name: ours for name, ours in _BLOOM.block.items() if "layernorm" not in name},
            "ln_attn": "attention_norm",
            "ln_mlp": "ffn_norm",
        },
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": replace(_GPT2, ways={"attn.c_attn": HEADS}),
    "gpt_neo": replace(
        _GPT2,
        block={
            "ln_1": "attention_norm", "ln_2": "ffn_norm", "attn.attention.q_proj": "attention.q",
            "attn.attention.k_proj": "attention.k", "attn.attention.v_proj": "attention.v",
            "attn.attention.out_proj": "attention.out", "mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down",
        },
        ways={},
    ),
    "gpt_neox": replace(
        _NEOX,
        others=(
            replace(
                _NEOX,
                top={**{k: v for k, v in _NEOX_TOP.items() if k != "embed_out"}, "lm_head": "lm_head"},
            ),
        ),
    ),
    "gptj": _GPTJ,
    "mpt": Names(
        {"transformer.wte": "embed", "transformer.norm_f": "norm", "lm_head": "lm_head"},
        "transformer.blocks",
        {
            "attn.Wqkv": _QKV, "attn.out_proj": "attention.out", "ffn.up_proj": "ffn.up",
            "ffn.down_proj": "ffn.down", "norm_1": "attention_norm", "norm_2": "ffn_norm",
        },
        "transformer.",
    ),
    "openai-gpt": replace(
        _GPT2,
        top={
            "transformer.tokens_embed": "embed", "transformer.positions_embed": "position",
            "lm_head": "lm_head",
        },
    ),
    "opt": Names(
        {
            "model.decoder.embed_tokens": "embed", "model.decoder.embed_positions": "position",
            "model.decoder.project_in": "project_in", "model.decoder.project_out": "project_out",
            "model.decoder.final_layer_norm": "norm", "lm_head": "lm_head",
        },
        "model.decoder.layers",
        {
            "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k",
            "self_attn.v_proj": "attention.v", "self_attn.out_proj": "attention.out",
            "self_attn_layer_norm": "attention_norm", "fc1": "ffn.up", "fc2": "ffn.down",
            "final_layer_norm": "ffn_norm",
        },
        "model.",
    ),
}  # fmt: skip
