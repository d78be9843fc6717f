"""Names of the classes in the line of Llama.

Read from what the classes of transformers 5 save, and held against them in tests/formats/test_hf_weights.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.build.names.names import Names, Parts

TOP: Final[Mapping[str, Parts]] = {
    "model.embed_tokens": "embed", "model.norm": "norm", "lm_head": "lm_head",
}  # fmt: skip
ATTENTION: Final[Mapping[str, Parts]] = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.out",
}  # fmt: skip
HEAD_NORMS: Final[Mapping[str, Parts]] = {
    "self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm",
}  # fmt: skip
FFN: Final[Mapping[str, Parts]] = {
    "mlp.gate_proj": "ffn.gate", "mlp.up_proj": "ffn.up", "mlp.down_proj": "ffn.down",
}  # fmt: skip
FUSED_FFN: Final[Mapping[str, Parts]] = {
    "mlp.gate_up_proj": ("ffn.gate", "ffn.up"), "mlp.down_proj": "ffn.down",
}  # fmt: skip
BEFORE: Final[Mapping[str, Parts]] = {
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_BEHIND: Final[Mapping[str, Parts]] = {
    "post_attention_layernorm": "attention_out_norm", "post_feedforward_layernorm": "ffn_out_norm",
}  # fmt: skip
_GEMMA_NORMS: Final[Mapping[str, Parts]] = {
    "input_layernorm": "attention_norm", "pre_feedforward_layernorm": "ffn_norm", **_BEHIND,
}  # fmt: skip

LLAMA: Final = Names(TOP, "model.layers", {**ATTENTION, **FFN, **BEFORE}, "model.")
QWEN3: Final = replace(LLAMA, block={**LLAMA.block, **HEAD_NORMS})
_GEMMA: Final = replace(LLAMA, norms_less_one=True)
_GEMMA2: Final = replace(_GEMMA, block={**ATTENTION, **FFN, **_GEMMA_NORMS})
_COHERE: Final = replace(QWEN3, block={**ATTENTION, **HEAD_NORMS, **FFN, "input_layernorm": "attention_norm"})
_GLM: Final = replace(LLAMA, block={**ATTENTION, **FUSED_FFN, **BEFORE})
_PHI3: Final[Mapping[str, Parts]] = {
    "self_attn.qkv_proj": ("attention.q", "attention.k", "attention.v"), "self_attn.o_proj": "attention.out",
}  # fmt: skip
_PHI: Final[Mapping[str, Parts]] = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.dense": "attention.out", "self_attn.q_layernorm": "attention.q_norm",
    "self_attn.k_layernorm": "attention.k_norm", "mlp.fc1": "ffn.up", "mlp.fc2": "ffn.down",
    "input_layernorm": "attention_norm",
}  # fmt: skip

_UNGATED: Final[Mapping[str, Parts]] = {
    **ATTENTION, **BEFORE, "mlp.up_proj": "ffn.up", "mlp.down_proj": "ffn.down",
}  # fmt: skip

LLAMA_LIKE: Final[Mapping[str, Names]] = {
    "arcee": replace(LLAMA, block=_UNGATED),
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(_GEMMA2, block={**_GEMMA2.block, **HEAD_NORMS}),
    "glm": _GLM,
    "glm4": replace(
        _GLM,
        block={
            **_GLM.block,
            "post_self_attn_layernorm": "attention_out_norm",
            "post_mlp_layernorm": "ffn_out_norm",
        },
    ),
    "granite": LLAMA,
    "llama": LLAMA,
    "mistral": LLAMA,
    "mobilellm": LLAMA,
    "nemotron": replace(_GEMMA, block=_UNGATED),
    "olmo": LLAMA,
    "olmo2": replace(LLAMA, block={**ATTENTION, **HEAD_NORMS, **FFN, **_BEHIND}),
    "phi": Names(
        {"model.embed_tokens": "embed", "model.final_layernorm": "norm", "lm_head": "lm_head"},
        "model.layers",
        _PHI,
        "model.",
    ),
    "phi3": replace(LLAMA, block={**_PHI3, **FUSED_FFN, **BEFORE}),
    "qwen2": LLAMA,
    "qwen3": QWEN3,
    "seed_oss": LLAMA,
    "smollm3": LLAMA,
    "stablelm": replace(
        LLAMA,
        block={
            **LLAMA.block,
            "self_attn.q_layernorm.norms.*": "attention.q_norm.*",
            "self_attn.k_layernorm.norms.*": "attention.k_norm.*",
        },
        heads_apart=True,
    ),
    "starcoder2": replace(
        LLAMA, block={**ATTENTION, **BEFORE, "mlp.c_fc": "ffn.up", "mlp.c_proj": "ffn.down"}
    ),
}
