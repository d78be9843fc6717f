"""Names of tensors in checkpoints of classes in the line of Llama.

Read from the classes of transformers 5.24; the names are those of published checkpoints.
"""

from typing import Final

from parambudget.build.names.rows import BIAS, LESS_ONE, ONE_AFTER_ANOTHER, WEIGHT, Row, fused, plain

_LAYER: Final = "model.layers.*"
AROUND: Final = {"embed": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"}
ATTENTION: Final = {
    "layers.*.attention.q": f"{_LAYER}.self_attn.q_proj",
    "layers.*.attention.k": f"{_LAYER}.self_attn.k_proj",
    "layers.*.attention.v": f"{_LAYER}.self_attn.v_proj",
    "layers.*.attention.out": f"{_LAYER}.self_attn.o_proj",
    "layers.*.attention.q_norm": f"{_LAYER}.self_attn.q_norm",
    "layers.*.attention.k_norm": f"{_LAYER}.self_attn.k_norm",
}  # fmt: skip
FFN: Final = {
    "layers.*.ffn.gate": f"{_LAYER}.mlp.gate_proj", "layers.*.ffn.up": f"{_LAYER}.mlp.up_proj",
    "layers.*.ffn.down": f"{_LAYER}.mlp.down_proj",
}  # fmt: skip
NORMS: Final = {
    "layers.*.attention_norm": f"{_LAYER}.input_layernorm",
    "layers.*.ffn_norm": f"{_LAYER}.post_attention_layernorm",
}
_NORMS_BEHIND: Final = {
    "layers.*.attention_out_norm": f"{_LAYER}.post_attention_layernorm",
    "layers.*.ffn_out_norm": f"{_LAYER}.post_feedforward_layernorm",
}
_SANDWICH: Final = _NORMS_BEHIND | {
    "layers.*.attention_norm": f"{_LAYER}.input_layernorm",
    "layers.*.ffn_norm": f"{_LAYER}.pre_feedforward_layernorm",
}
_GATE_AND_UP: Final = (
    fused(f"{_LAYER}.mlp.gate_up_proj", "layers.*.ffn.gate", "layers.*.ffn.up", way=ONE_AFTER_ANOTHER),
)
_QKV: Final = ("layers.*.attention.q", "layers.*.attention.k", "layers.*.attention.v")
_LLAMA: Final = AROUND | ATTENTION | FFN | NORMS


def _less_one(names: dict[str, str]) -> tuple[Row, ...]:
    """Every norm less one, its shift as it is."""
    norms = {ours: theirs for ours, theirs in names.items() if ours.endswith("norm")}
    others = {ours: theirs for ours, theirs in names.items() if ours not in norms}
    return plain(others) + plain(norms, LESS_ONE, WEIGHT) + plain(norms, endings=BIAS)


def _without(names: dict[str, str], *ours: str) -> dict[str, str]:
    return {own: theirs for own, theirs in names.items() if own not in ours}


_FUSED_FFN: Final = ("layers.*.ffn.gate", "layers.*.ffn.up")
_GEMMA_2: Final = _less_one(AROUND | ATTENTION | FFN | _SANDWICH)
_LLAMA_ROWS: Final = plain(_LLAMA)

LLAMA_LIKE: Final[dict[str, tuple[Row, ...]]] = {
    **dict.fromkeys(
        (
            "arcee",
            "cohere",
            "cohere2",
            "granite",
            "llama",
            "mistral",
            "mobilellm",
            "olmo",
            "qwen2",
            "qwen3",
            "seed_oss",
            "smollm3",
        ),
        _LLAMA_ROWS,
    ),
    "gemma": _less_one(_LLAMA),
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_2,
    "glm": plain(_without(_LLAMA, *_FUSED_FFN)) + _GATE_AND_UP,
    "glm4": plain(
        _without(_LLAMA, *_FUSED_FFN)
        | {
            "layers.*.attention_out_norm": f"{_LAYER}.post_self_attn_layernorm",
            "layers.*.ffn_out_norm": f"{_LAYER}.post_mlp_layernorm",
        }
    )
    + _GATE_AND_UP,
    "nemotron": _less_one(_LLAMA),
    "olmo2": plain(AROUND | ATTENTION | FFN | _NORMS_BEHIND),
    "phi": plain(
        _LLAMA
        | {
            "norm": "model.final_layernorm",
            "layers.*.attention.out": f"{_LAYER}.self_attn.dense",
            "layers.*.attention.q_norm": f"{_LAYER}.self_attn.q_layernorm",
            "layers.*.attention.k_norm": f"{_LAYER}.self_attn.k_layernorm",
            "layers.*.ffn.up": f"{_LAYER}.mlp.fc1",
            "layers.*.ffn.down": f"{_LAYER}.mlp.fc2",
        }
    ),
    "phi3": (
        *plain(_without(_LLAMA, *_FUSED_FFN, *_QKV)),
        *_GATE_AND_UP,
        fused(f"{_LAYER}.self_attn.qkv_proj", *_QKV, way=ONE_AFTER_ANOTHER),
    ),
    "stablelm": plain(
        _without(_LLAMA, "layers.*.attention.q_norm", "layers.*.attention.k_norm")
        | {
            # Every head's norm is a module of its own.
            "layers.*.attention.q_norm.*": f"{_LAYER}.self_attn.q_layernorm.norms.*",
            "layers.*.attention.k_norm.*": f"{_LAYER}.self_attn.k_layernorm.norms.*",
        }
    ),
    "starcoder2": plain(
        _LLAMA | {"layers.*.ffn.up": f"{_LAYER}.mlp.c_fc", "layers.*.ffn.down": f"{_LAYER}.mlp.c_proj"}
    ),
}
