"""The architectures of llama.cpp that models here are written as: what each computes, and its names.

Source: llama.cpp in llama-cpp-python 0.3.36: src/models/ for the graphs, src/llama-model.cpp for what is read
from a file, src/llama-arch.cpp for names; gguf 0.19, constants.py. Each is checked against llama.cpp itself:
tests/formats/gguf/test_llama_cpp.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from parambudget.arch.config import ModelConfig
from parambudget.formats.hf.schema import Fields

RotaryPairs = Literal["neighbours", "halves"]
"""Which elements of a head are rotated together: neighbours, or those half the rotated width apart."""

_ALWAYS_FREE: Final = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "intermediate_size", "vocab_size", "context_length",
    "norm_eps", "rope_theta", "rotary_interleaved",
)  # fmt: skip
"""Fields that every architecture takes: sizes, and which elements are rotated together, by sorting rows."""


@dataclass(frozen=True, kw_only=True)
class GGUFArchitecture:
    """What llama.cpp computes for one `general.architecture`.

    A field of the model that is neither free nor fixed nor implied has the default of `ModelConfig`.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are the same for all its models."""
    free: frozenset[str] = frozenset()
    """Fields that a file may choose: by a key, or by having a tensor or not."""
    implied: Callable[[ModelConfig], Fields]
    """Fields that llama.cpp derives from others."""
    rotary_pairs: RotaryPairs = "halves"
    fused_qkv: bool = False
    """Whether queries, keys and values are one tensor."""
    fused_gate_up: bool = False
    """Whether gate and up projection are one tensor."""
    rescales: frozenset[str] = frozenset({"linear", "yarn"})
    """The rescalings of rotary angles that it has."""
    logit_scale: Literal["multiplier", "divisor"] = "multiplier"
    """What the key `logit_scale` means."""
    has_experts: bool = False

    def fields(self, m: ModelConfig) -> Fields:
        """The fields of the model that llama.cpp computes from the file of `m`."""
        own = dict(m) | (dict(m.moe) if m.moe else {}) | (dict(m.mla) if m.mla else {})
        chosen = {name: own[name] for name in (*_ALWAYS_FREE, *self.free) if name in own}
        read = {"tied": False, **self.fixed, **chosen, **self.implied(m)}
        if m.activation == "gelu" and read.get("activation") == "gelu_tanh":
            read["activation"] = "gelu"  # said in a note: llama.cpp has the approximation only
        if m.rope_scaling is not None and m.rope_scaling.rope_type in self.rescales:
            read["rope_scaling"] = m.rope_scaling.model_copy(update={"rope_truncate": True})
        return read


_LAYERNORM: Final = {"norm": "layernorm", "norm_bias": True}
_PLAIN: Final = {"gated": False, "activation": "gelu_tanh"}
_ALL_BIASES: Final = {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True}
_GPT: Final = _LAYERNORM | _PLAIN | _ALL_BIASES
_COHERE: Final = {
    "norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm", "tied": True,
}  # fmt: skip
_BIASED_QKV: Final = frozenset({"tied", "qkv_bias"})
_FREE_HEADS: Final = _BIASED_QKV | {"head_dim"}
_EXPERTS: Final = frozenset({"n_experts", "n_experts_per_token", "expert_intermediate_size"})
_WINDOW: Final = frozenset({"window", "window_pattern"})
_LATENTS: Final = frozenset(
    {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "head_dim"}
)


_GEMMA_2_DEFAULTS: Final = {"attention_softcap": 50.0, "logit_softcap": 30.0, "window": 4096}
_COHERE_2_WINDOW: Final = 4096
"""Its files always have a window."""
_LITE_DEPTHS: Final = (26, 27)
"""Depths at which llama.cpp takes a model for DeepSeek-V2-Lite, whose queries have no latent."""


def _nothing(_: ModelConfig) -> Fields:
    return {}


def _even_heads(m: ModelConfig) -> Fields:
    return {"head_dim": m.dim // m.n_heads}


def _gemma(m: ModelConfig) -> Fields:
    return {"embedding_multiplier": m.dim**0.5}


def _gemma_of(n_layers: int, defaults: Fields) -> Callable[[ModelConfig], Fields]:
    """Gemma 2 and 3: what a file leaves out has a default, and a model of that many layers is taken for the
    one of 27B, whose scores have another scale."""

    def implied_fields(m: ModelConfig) -> Fields:
        own = {name: getattr(m, name) or value for name, value in defaults.items()}
        scale = {"attention_multiplier": (m.dim // m.n_heads) ** -0.5} if m.n_layers == n_layers else {}
        # Local layers do not take part in a rescaling, whichever base they have.
        is_split = m.rope_scaling is not None and m.n_local_layers > 0
        local = {"rope_theta_local": m.rope_theta_local or m.rope_theta} if is_split else {}
        return _gemma(m) | own | scale | local

    return implied_fields


def _gptneox(m: ModelConfig) -> Fields:
    return _even_heads(m) | {"block": "sequential" if m.block == "sequential" else "parallel"}


def _stablelm(m: ModelConfig) -> Fields:
    return _even_heads(m) | {"block": "sequential" if m.block == "sequential" else "parallel_shared_norm"}


def _command_r(m: ModelConfig) -> Fields:
    """From 64 layers on it is taken for Command R+, which normalizes queries and keys."""
    return _even_heads(m) | ({"qk_norm": "per_head"} if m.n_layers >= 64 else {})


def _cohere2(m: ModelConfig) -> Fields:
    pattern = tuple("rotary" if m.is_local(layer) else "none" for layer in range(m.n_layers))
    return _even_heads(m) | {"rotary_pattern": pattern, "window": m.window or _COHERE_2_WINDOW}


def _smollm3(_: ModelConfig) -> Fields:
    return {"rotary_pattern": ("rotary", "rotary", "rotary", "none")}


def _olmoe(m: ModelConfig) -> Fields:
    return _even_heads(m) | {"n_kv_heads": m.n_heads}


def _deepseek2(m: ModelConfig) -> Fields:
    """Its files always have shared experts, each as wide as a routed one."""
    shared = {"n_shared_experts": max(1, m.moe.n_shared_experts if m.moe else 0)}
    return shared | ({"q_lora_rank": None} if m.n_layers in _LITE_DEPTHS else {})


ARCHITECTURES: Final[Mapping[str, GGUFArchitecture]] = {
    "llama": GGUFArchitecture(
        free=_FREE_HEADS | {"attention_out_bias", "ffn_bias"}, implied=_nothing, rotary_pairs="neighbours",
        rescales=frozenset({"linear", "yarn", "llama3"}),
    ),
    "qwen2": GGUFArchitecture(
        implied=_even_heads, free=_BIASED_QKV | {"head_bias"},
    ),
    "qwen3": GGUFArchitecture(fixed={"qk_norm": "head"}, free=_FREE_HEADS, implied=_nothing),
    "gpt2": GGUFArchitecture(
        implied=_even_heads, fixed=_GPT | {"position": "learned"}, free=frozenset({"tied"}), fused_qkv=True,
    ),
    "gptneox": GGUFArchitecture(
        implied=_gptneox, fixed=_GPT, free=frozenset({"block", "rotary_fraction"}), fused_qkv=True,
    ),
    "olmo2": GGUFArchitecture(
        implied=_even_heads, fixed={"norm_placement": "reordered", "qk_norm": "full"},
        free=frozenset({"qkv_bias"}) | _WINDOW,
        rescales=frozenset(),
    ),
    "gemma": GGUFArchitecture(
        fixed={"tied": True, "activation": "gelu_tanh"}, free=frozenset({"qkv_bias", "head_dim"}),
        implied=_gemma,
    ),
    "gemma2": GGUFArchitecture(
        fixed={"tied": True, "activation": "gelu_tanh", "norm_placement": "sandwich"},
        free=frozenset({"qkv_bias", "head_dim", "attention_softcap", "logit_softcap"}) | _WINDOW,
        implied=_gemma_of(46, _GEMMA_2_DEFAULTS), rescales=frozenset(),
    ),
    "gemma3": GGUFArchitecture(
        fixed={"activation": "gelu_tanh", "norm_placement": "sandwich", "qk_norm": "head"},
        free=_FREE_HEADS | _WINDOW | {"rope_theta_local", "logit_softcap"},
        implied=_gemma_of(62, {}), rescales=frozenset({"linear"}),
    ),
    "phi3": GGUFArchitecture(
        implied=_even_heads, free=_BIASED_QKV | {"rotary_fraction"}, fused_qkv=True, fused_gate_up=True,
    ),
    "phi2": GGUFArchitecture(
        implied=_even_heads, fixed=_GPT | {"block": "parallel_shared_norm", "head_bias": True},
        free=frozenset({"rotary_fraction"}),
    ),
    "starcoder2": GGUFArchitecture(
        implied=_even_heads, fixed=_GPT, free=frozenset({"tied"}),
    ),
    "bloom": GGUFArchitecture(
        implied=_even_heads, fixed=_GPT | {"position": "alibi", "embedding_norm": True},
        free=frozenset({"tied"}), fused_qkv=True,
    ),
    "mpt": GGUFArchitecture(
        implied=_even_heads, fixed=_LAYERNORM | _PLAIN | {"position": "alibi"},
        free=frozenset({"tied", "norm_bias", "qkv_bias", "attention_out_bias", "ffn_bias", "qkv_clip"}),
        fused_qkv=True,
    ),
    "falcon": GGUFArchitecture(
        implied=_even_heads, fixed=_LAYERNORM | _PLAIN | {"block": "parallel_shared_norm"},
        free=frozenset({"tied"}), fused_qkv=True,
    ),
    "stablelm": GGUFArchitecture(
        implied=_stablelm, fixed=_LAYERNORM | {"activation": "silu"},
        free=frozenset({"qkv_bias", "rotary_fraction"}),
    ),
    "nemotron": GGUFArchitecture(
        implied=_even_heads, fixed=_LAYERNORM | {"gated": False, "activation": "relu2"},
        free=frozenset({"qkv_bias", "attention_out_bias", "ffn_bias", "rotary_fraction"}),
    ),
    "olmo": GGUFArchitecture(
        implied=_even_heads, fixed={"norm": "layernorm", "norm_bias": False, "norm_weight": False},
        free=frozenset({"tied", "qkv_bias", "qkv_clip"}), rotary_pairs="neighbours",
    ),
    "command-r": GGUFArchitecture(
        implied=_command_r, fixed=_COHERE,
        free=frozenset({"qkv_bias", "logit_multiplier"}), rotary_pairs="neighbours",
    ),
    "cohere2": GGUFArchitecture(
        fixed=_COHERE,
        free=frozenset({"qkv_bias", "logit_multiplier"}) | _WINDOW, implied=_cohere2,
        rotary_pairs="neighbours", rescales=frozenset(),
    ),
    "smollm3": GGUFArchitecture(
        free=_FREE_HEADS, implied=_smollm3, rotary_pairs="neighbours",
    ),
    "granite": GGUFArchitecture(
        free=_FREE_HEADS | {
            "attention_out_bias", "ffn_bias", "embedding_multiplier", "residual_multiplier",
            "attention_multiplier", "logit_multiplier",
        },
        implied=_nothing, rotary_pairs="neighbours", logit_scale="divisor",
    ),
    "llama (experts)": GGUFArchitecture(
        free=_FREE_HEADS | {"attention_out_bias"} | _EXPERTS, implied=_nothing, rotary_pairs="neighbours",
        rescales=frozenset({"linear", "yarn", "llama3"}), has_experts=True,
    ),
    "qwen3moe": GGUFArchitecture(
        fixed={"qk_norm": "head"}, free=_FREE_HEADS | _EXPERTS, implied=_nothing, has_experts=True,
    ),
    "qwen2moe": GGUFArchitecture(
        implied=_even_heads, fixed={"shared_expert_gate": True, "norm_expert_weights": False},
        free=frozenset({"qkv_bias", "n_shared_experts", "shared_intermediate_size"}) | _EXPERTS,
        has_experts=True,
    ),
    "olmoe": GGUFArchitecture(
        fixed={"qk_norm": "full", "norm_expert_weights": False}, free=frozenset({"qkv_bias"}) | _EXPERTS,
        implied=_olmoe, has_experts=True,
    ),
    "deepseek2": GGUFArchitecture(
        free=frozenset({
            "tied", "n_first_dense", "n_shared_experts", "norm_expert_weights", "routing_multiplier",
            "router_scores", "correction_bias",
        }) | _EXPERTS | _LATENTS,
        implied=_deepseek2, rotary_pairs="neighbours", rescales=frozenset(), has_experts=True,
    ),
}  # fmt: skip
"""In the order in which they are tried: plain and widely supported ones first."""

TOP_NAMES: Final = {
    "embed": "token_embd", "embed_norm": "token_embd_norm", "position": "position_embd",
    "norm": "output_norm", "lm_head": "output",
}  # fmt: skip
"""Our names of tensors outside the layers, and llama.cpp's."""
LAYER_NAMES: Final = {
    "attention_norm": "attn_norm", "attention.q": "attn_q", "attention.k": "attn_k",
    "attention.v": "attn_v", "attention.qkv": "attn_qkv", "attention.out": "attn_output",
    "attention.q_norm": "attn_q_norm", "attention.k_norm": "attn_k_norm",
    "attention.q_down": "attn_q_a", "attention.q_up": "attn_q_b", "attention.kv_down": "attn_kv_a_mqa",
    "attention.q_latent_norm": "attn_q_a_norm", "attention.kv_latent_norm": "attn_kv_a_norm",
    "attention.k_up": "attn_k_b", "attention.v_up": "attn_v_b",
    "attention_out_norm": "post_attention_norm", "ffn_norm": "ffn_norm", "ffn_out_norm": "post_ffw_norm",
    "ffn.gate": "ffn_gate", "ffn.up": "ffn_up", "ffn.gate_up": "ffn_up", "ffn.down": "ffn_down",
    "ffn.router": "ffn_gate_inp", "ffn.correction": "exp_probs_b",
    "ffn.experts.gate": "ffn_gate_exps", "ffn.experts.up": "ffn_up_exps",
    "ffn.experts.down": "ffn_down_exps", "ffn.shared.gate": "ffn_gate_shexp",
    "ffn.shared.up": "ffn_up_shexp", "ffn.shared.down": "ffn_down_shexp",
    "ffn.shared_gate": "ffn_gate_inp_shexp",
}  # fmt: skip
"""The same of a layer's tensors, without "layers.N." and "blk.N."; some are several of ours, or a part."""
