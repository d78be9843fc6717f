"""A model as the command-line arguments of Megatron-LM: exactly, or refused with the reason.

What is written is read again by what Megatron builds from it (`megatron_built`), so it is refused unless it
is the model.

Source: NVIDIA/Megatron-LM, names from megatron/training/arguments.py at commit 000c4ac24f61, what they build
from megatron-core 0.16.1 (PyPI).
"""

from typing import Any, Final

from parambudget.arch.config import MLA, ModelConfig, MoE
from parambudget.arch.defaults import complete
from parambudget.arch.export.megatron_built import built
from parambudget.arch.export.target import Attempt, Export, chosen

_NORMS: Final = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}
_POSITIONS: Final = {"learned": "learned_absolute", "rotary": "rope"}


def to_megatron(model: ModelConfig) -> Export:
    """The arguments of this model; raises `ConfigError` with what Megatron-LM lacks."""
    arguments = _written(model)
    notes = [
        f"the vocabulary has {model.vocab_size:,} rows if the tokenizer has as many ids and tensor "
        "parallelism divides them; Megatron pads it to a multiple otherwise"
    ]
    if "--moe-shared-expert-gate" in arguments:
        notes.append("--moe-shared-expert-gate is an argument of Megatron-LM since core 0.16")
    export = Export("Megatron-LM", arguments, tuple(notes), file="megatron_args.txt")

    def attempt() -> Attempt:
        return Attempt(export, complete(built(arguments)).model)

    return chosen(model, [attempt], "no set of arguments of Megatron-LM")


def _written(m: ModelConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "--num-layers": m.n_layers,
        "--hidden-size": m.dim,
        "--ffn-hidden-size": m.intermediate_size,
        "--seq-length": m.context_length,
        "--max-position-embeddings": m.context_length,
        "--vocab-size": m.vocab_size,
        # Or it is padded to a multiple of 128.
        "--make-vocab-size-divisible-by": 1,
        "--normalization": _NORMS[m.norm],
        "--norm-epsilon": m.norm_eps,
    }
    if not m.tied:
        arguments["--untie-embeddings-and-output-weights"] = True
    arguments |= _attention(m) | _positions(m) | _ffn(m)
    return arguments | {
        "--init-method-std": m.init_std,
        # A ModelConfig has no dropout; Megatron's own is 0.1.
        "--attention-dropout": 0.0,
        "--hidden-dropout": 0.0,
    }


def _attention(m: ModelConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {"--num-attention-heads": m.n_heads}
    if m.mla:
        arguments |= _latents(m.mla)
    else:
        arguments["--kv-channels"] = m.head_dim
    if m.n_kv_heads != m.n_heads:
        arguments |= {"--group-query-attention": True, "--num-query-groups": m.n_kv_heads}
    if m.qk_norm != "none":
        arguments["--qk-layernorm"] = True
    if not m.attention_out_bias:
        arguments["--disable-bias-linear"] = True
        if m.qkv_bias:
            arguments["--add-qkv-bias"] = True
    if m.attention_sinks:
        arguments["--softmax-type"] = "learnable"
    if m.window is not None and m.n_local_layers:
        # Tokens before the query's own, and after it.
        arguments["--window-size"] = f"{m.window - 1},0"
        if m.n_global_layers:
            arguments["--window-attn-skip-freq"] = _runs([m.is_local(layer) for layer in range(m.n_layers)])
    return arguments


def _latents(mla: MLA) -> dict[str, Any]:
    arguments: dict[str, Any] = {"--multi-latent-attention": True}
    if mla.q_lora_rank is not None:
        arguments["--q-lora-rank"] = mla.q_lora_rank
    return arguments | {
        "--kv-lora-rank": mla.kv_lora_rank,
        "--qk-head-dim": mla.qk_nope_head_dim,
        "--qk-pos-emb-head-dim": mla.qk_rope_head_dim,
        "--v-head-dim": mla.v_head_dim,
        # The norms on the latents.
        "--qk-layernorm": True,
        # Its own are rescaled frequencies (YaRN), and the fused form knows no others.
        "--rope-type": "rope",
        "--rotary-scaling-factor": 1.0,
        "--no-rope-fusion": True,
    }


def _positions(m: ModelConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {"--position-embedding-type": _POSITIONS.get(m.position, "none")}
    if m.position != "rotary":
        return arguments
    arguments["--rotary-base"] = round(m.rope_theta)
    arguments["--rotary-percent"] = m.rotary_fraction
    if m.rotary_interleaved and not m.mla:
        arguments |= {"--rotary-interleaved": True, "--no-rope-fusion": True}
    turns = [m.rotates(layer) for layer in range(m.n_layers)]
    if not all(turns):
        arguments["--no-rope-freq"] = _runs([not turn for turn in turns])
    return arguments


def _ffn(m: ModelConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if m.gated:
        arguments["--quick-geglu" if m.activation == "quick_gelu" else "--swiglu"] = True
        if m.ffn_clamp is not None:
            arguments |= {"--activation-func-clamp-value": m.ffn_clamp, "--glu-linear-offset": 1.0}
    elif m.activation == "relu2":
        arguments["--squared-relu"] = True
    if not (m.gated and m.activation == "silu") and m.activation != "gelu_tanh":
        # The fused form has the tanh approximation, and no other function.
        arguments["--no-bias-gelu-fusion"] = True
    return arguments | (_experts(m, m.moe) if m.moe else {})


def _experts(m: ModelConfig, moe: MoE) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "--num-experts": moe.n_experts,
        "--moe-ffn-hidden-size": moe.expert_intermediate_size,
        "--moe-router-topk": moe.n_experts_per_token,
        "--moe-router-score-function": moe.router_scores,
    }
    if m.n_dense_layers:
        arguments["--moe-layer-freq"] = _runs([m.has_experts(layer) for layer in range(m.n_layers)])
    if moe.n_shared_experts:
        width = moe.shared_intermediate_size or moe.expert_intermediate_size
        arguments["--moe-shared-expert-intermediate-size"] = moe.n_shared_experts * width
    if moe.shared_expert_gate:
        arguments["--moe-shared-expert-gate"] = True
    if moe.router_scores == "softmax" and not moe.norm_expert_weights:
        arguments["--moe-router-pre-softmax"] = True
    if moe.correction_bias:
        arguments["--moe-router-enable-expert-bias"] = True
    if moe.routing_multiplier != 1:
        arguments["--moe-router-topk-scaling-factor"] = moe.routing_multiplier
    if moe.n_groups_per_token != moe.n_expert_groups:
        arguments["--moe-router-num-groups"] = moe.n_expert_groups
        arguments["--moe-router-group-topk"] = moe.n_groups_per_token
    return arguments


def _runs(layers: list[bool]) -> str:
    """A list over the layers in the arguments' form, such as ([0]*1+[1]*23)."""
    runs: list[list[int]] = []
    for there in layers:
        if runs and runs[-1][0] == there:
            runs[-1][1] += 1
        else:
            runs.append([int(there), 1])
    return f"({'+'.join(f'[{there}]*{times}' for there, times in runs)})"
