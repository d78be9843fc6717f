"""A model as the command-line arguments of Megatron-LM: exactly, or refused with the reason.

The arguments are read back as what Megatron builds from them (`from_megatron`), and refused unless that is
the model.

Source: NVIDIA/Megatron-LM, names from megatron/training/arguments.py at commit 000c4ac24f61, what they build
from megatron-core 0.16.1 (PyPI).
"""

import re
from typing import Any, Final

from parambudget.arch.blocks import MLAConfig, MoEConfig
from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.arch.description import NORM_NAMES
from parambudget.arch.rope_scaling import yarn_attention_factor, yarn_strength
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Attempt, Export, first_equivalent
from parambudget.formats.hf.schema import Fields

Arguments = dict[str, Any]
"""Values by the argument's name with its dashes; True for one that takes no value."""

_LLAMA3_CONTEXT: Final = 8192
"""The original context of its rescaling as in Llama 3; no argument sets it, nor the bounds, 1 and 4."""
_YARN_CONTEXT: Final = 4096
"""That of its YaRN; no argument sets it, nor the bounds, 32 and 1."""
_N_SCORES_PER_GROUP: Final = {"softmax": 1, "sigmoid": 2}
"""The number of experts whose scores rank a group in a `ModelConfig`, by router."""


def from_megatron(arguments: Arguments) -> Fields:
    """Our fields of the model that Megatron builds; raises `ConfigError` for what Megatron itself refuses."""
    a = arguments
    layernorm = a["--normalization"] == "LayerNorm"
    bias = "--disable-bias-linear" not in a
    fields: Fields = {
        "dim": a["--hidden-size"], "n_layers": a["--num-layers"], "n_heads": a["--num-attention-heads"],
        "vocab_size": a["--vocab-size"], "context_length": a["--max-position-embeddings"],
        "intermediate_size": a["--ffn-hidden-size"], "norm_eps": a["--norm-epsilon"],
        "tied": "--untie-embeddings-and-output-weights" not in a,
        "norm": "layernorm" if layernorm else "rmsnorm", "norm_bias": layernorm,
        "qkv_bias": bias or "--add-qkv-bias" in a, "attention_out_bias": bias, "ffn_bias": bias,
        "attention_sinks": a.get("--softmax-type") == "learnable", "init_std": a["--init-method-std"],
    }  # fmt: skip
    fields |= _attention_fields(a) | _position_fields(a) | _ffn_fields(a)
    return fields | (_moe_fields(a, bias) if "--num-experts" in a else {})


def _attention_fields(a: Arguments) -> Fields:
    if "--multi-latent-attention" in a:
        # None of its projections but the last has a bias.
        return {
            "qkv_bias": False, "kv_lora_rank": a["--kv-lora-rank"], "q_lora_rank": a.get("--q-lora-rank"),
            "qk_nope_head_dim": a["--qk-head-dim"], "qk_rope_head_dim": a["--qk-pos-emb-head-dim"],
            "v_head_dim": a["--v-head-dim"],
        } | _yarn_fields(a)  # fmt: skip
    fields: Fields = {
        "head_dim": a["--kv-channels"],
        "n_kv_heads": a.get("--num-query-groups", a["--num-attention-heads"]),
        "qk_norm": "head" if "--qk-layernorm" in a else "none",
    }
    if "--window-size" in a:
        fields["window"] = int(a["--window-size"].partition(",")[0]) + 1
        if "--window-attn-skip-freq" in a:
            local = _expand_runs(a["--window-attn-skip-freq"])
            fields["window_pattern"] = ["local" if is_local else "global" for is_local in local]
    return fields


def _yarn_fields(a: Arguments) -> Fields:
    """YaRN in latent attention, as in DeepSeek; the rest of its settings has no arguments."""
    if a["--rope-type"] != "yarn":
        return {}
    factor = a["--rotary-scaling-factor"]
    own, base = (yarn_attention_factor(factor, a[name]) for name in ("--mscale", "--mscale-all-dim"))
    return {
        "rope_type": "yarn", "rope_factor": factor, "rope_original_context": _YARN_CONTEXT,
        "rope_attention_factor": own / base,
        "attention_multiplier": (a["--qk-head-dim"] + a["--qk-pos-emb-head-dim"]) ** -0.5 * base**2,
    }  # fmt: skip


def _position_fields(a: Arguments) -> Fields:
    latent = "--multi-latent-attention" in a
    kind = a["--position-embedding-type"]
    if kind != "rope":
        if latent:
            raise ConfigError(
                "latent attention in Megatron-LM has rotary positions; set position to 'rotary'"
            )
        return {"position": "learned" if kind == "learned_absolute" else "none"}
    fields: Fields = {
        "rope_theta": float(a["--rotary-base"]), "rotary_fraction": a["--rotary-percent"],
        # Latent attention rotates neighbouring elements, whatever the argument says.
        "rotary_interleaved": latent or "--rotary-interleaved" in a,
    }  # fmt: skip
    if "--rotary-seq-len-interpolation-factor" in a and not latent:
        factor = float(a["--rotary-seq-len-interpolation-factor"])
        fields |= {"rope_type": "linear", "rope_factor": factor}
    if "--use-rope-scaling" in a and not latent:
        context = {"rope_original_context": _LLAMA3_CONTEXT}
        fields |= {"rope_type": "llama3", "rope_factor": a["--rope-scaling-factor"]} | context
    if "--no-rope-freq" in a and not latent:
        fields["rotary_pattern"] = [
            "none" if skip else "rotary" for skip in _expand_runs(a["--no-rope-freq"])
        ]
    return fields


def _ffn_fields(a: Arguments) -> Fields:
    if "--quick-geglu" in a:
        clamp = a.get("--activation-func-clamp-value")
        return {"gated": True, "activation": "quick_gelu", "ffn_clamp": clamp}
    if "--swiglu" in a:
        return {"gated": True, "activation": "silu"}
    if "--squared-relu" in a:
        return {"gated": False, "activation": "relu2"}
    # The fused kernel, which computes the tanh approximation, needs the bias.
    fused = "--no-bias-gelu-fusion" not in a and "--disable-bias-linear" not in a
    if fused and "--num-experts" in a:
        raise ConfigError("Megatron-LM has no ungated experts with gelu_tanh; use activation 'gelu'")
    return {"gated": False, "activation": "gelu_tanh" if fused else "gelu"}


def _moe_fields(a: Arguments, bias: bool) -> Fields:
    scores, n_chosen = a["--moe-router-score-function"], a["--moe-router-topk"]
    shared = a.get("--moe-shared-expert-intermediate-size", 0)
    pre_softmax = "--moe-router-pre-softmax" in a
    if scores == "softmax" and n_chosen == 1 and not pre_softmax:
        raise ConfigError("one expert per token needs norm_expert_weights=False in Megatron-LM; set it")
    if scores == "softmax" and "--moe-router-enable-expert-bias" in a:
        raise ConfigError(
            "correction_bias needs router_scores='sigmoid' in Megatron-LM; change one of the two"
        )
    if shared and bias:
        raise ConfigError(
            "shared experts in Megatron-LM have no biases; set attention_out_bias and ffn_bias to False"
        )
    _check_group_scores(a, scores, n_chosen)
    fields: Fields = {
        "n_experts": a["--num-experts"], "n_experts_per_token": n_chosen, "router_scores": scores,
        "expert_intermediate_size": a["--moe-ffn-hidden-size"], "expert_bias": bias, "router_bias": bias,
        "norm_expert_weights": n_chosen > 1 if scores == "sigmoid" else not pre_softmax,
        "correction_bias": "--moe-router-enable-expert-bias" in a,
        "routing_multiplier": a.get("--moe-router-topk-scaling-factor", 1.0),
        "n_expert_groups": a.get("--moe-router-num-groups", 1),
        "n_groups_per_token": a.get("--moe-router-group-topk", 1),
        "shared_expert_gate": "--moe-shared-expert-gate" in a,
    }  # fmt: skip
    if shared:
        fields |= {"n_shared_experts": 1, "shared_intermediate_size": shared}
    if "--moe-layer-freq" in a:
        has_experts = _expand_runs(a["--moe-layer-freq"])
        fields["moe_pattern"] = ["experts" if moe else "dense" for moe in has_experts]
    return fields


def _check_group_scores(a: Arguments, scores: str, n_chosen: int) -> None:
    """Megatron ranks a group by as many experts as a token takes from each chosen group on average."""
    if "--moe-router-num-groups" not in a:
        return
    n_scores = n_chosen // a["--moe-router-group-topk"]
    # A smaller group is ranked by all of its experts.
    group_size = a["--num-experts"] // a["--moe-router-num-groups"]
    if n_scores != min(_N_SCORES_PER_GROUP[scores], group_size):
        raise ConfigError(
            f"Megatron-LM ranks a group of experts by its best {n_scores} (n_experts_per_token // "
            f"n_groups_per_token), this model by its best {_N_SCORES_PER_GROUP[scores]}; change one of them"
        )


def _expand_runs(runs: str) -> list[bool]:
    """The layer-by-layer list that an argument such as ([0]*1+[1]*23) stands for."""
    return [flag == "1" for flag, times in re.findall(r"\[(\d)\]\*(\d+)", runs) for _ in range(int(times))]


_POSITIONS: Final = {"learned": "learned_absolute", "rotary": "rope"}


def to_megatron(model: ModelConfig) -> Export:
    """The arguments of this model; raises `ConfigError` with what Megatron-LM lacks."""
    arguments = _megatron_arguments(model)
    notes = [
        f"the vocabulary has {model.vocab_size:,} rows if the tokenizer has as many ids and tensor "
        "parallelism divides them; Megatron pads it to a multiple otherwise"
    ]
    if "--moe-shared-expert-gate" in arguments:
        notes.append("--moe-shared-expert-gate is an argument of Megatron-LM since core 0.16")
    export = Export("Megatron-LM", arguments, tuple(notes), file="megatron_args.txt")

    def attempt() -> Attempt:
        return Attempt(export, with_defaults(from_megatron(arguments)).model)

    return first_equivalent(model, [attempt], "no set of arguments of Megatron-LM")


def _megatron_arguments(m: ModelConfig) -> Arguments:
    arguments: Arguments = {
        "--num-layers": m.n_layers,
        "--hidden-size": m.dim,
        "--ffn-hidden-size": m.intermediate_size,
        "--seq-length": m.context_length,
        "--max-position-embeddings": m.context_length,
        "--vocab-size": m.vocab_size,
        # Otherwise it is padded to a multiple of 128.
        "--make-vocab-size-divisible-by": 1,
        "--normalization": NORM_NAMES[m.norm],
        "--norm-epsilon": m.norm_eps,
    }
    if not m.tied:
        arguments["--untie-embeddings-and-output-weights"] = True
    arguments |= _attention_arguments(m) | _position_arguments(m) | _ffn_arguments(m)
    return arguments | {
        "--init-method-std": m.init_std,
        # A ModelConfig has no dropout; Megatron's default is 0.1.
        "--attention-dropout": 0.0,
        "--hidden-dropout": 0.0,
    }


def _attention_arguments(m: ModelConfig) -> Arguments:
    arguments: Arguments = {"--num-attention-heads": m.n_heads}
    if m.mla:
        arguments |= _mla_arguments(m, m.mla)
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
        # The numbers of tokens before and after the query's own.
        arguments["--window-size"] = f"{m.window - 1},0"
        if m.n_global_layers:
            arguments["--window-attn-skip-freq"] = _runs([m.is_local(layer) for layer in range(m.n_layers)])
    return arguments


def _mla_arguments(m: ModelConfig, mla: MLAConfig) -> Arguments:
    arguments: Arguments = {"--multi-latent-attention": True}
    if mla.q_lora_rank is not None:
        arguments["--q-lora-rank"] = mla.q_lora_rank
    return arguments | {
        "--kv-lora-rank": mla.kv_lora_rank,
        "--qk-head-dim": mla.qk_nope_head_dim,
        "--qk-pos-emb-head-dim": mla.qk_rope_head_dim,
        "--v-head-dim": mla.v_head_dim,
        # The norms on the latents.
        "--qk-layernorm": True,
        # Its default is rescaled frequencies (YaRN), and the fused kernel supports no others.
        **(_yarn_arguments(m) or {"--rope-type": "rope", "--rotary-scaling-factor": 1.0}),
        "--no-rope-fusion": True,
    }


def _yarn_arguments(m: ModelConfig) -> Arguments:
    scaling = m.rope_scaling
    if scaling is None or scaling.rope_type != "yarn" or scaling.rope_factor is None:
        return {}
    factor = scaling.rope_factor
    score_scale = (m.attention_multiplier or m.head_dim**-0.5) * m.head_dim**0.5
    base = yarn_strength(factor, score_scale**0.5)
    own = yarn_strength(factor, m.rotary_scale * yarn_attention_factor(factor, base))
    return {
        "--rope-type": "yarn", "--rotary-scaling-factor": factor, "--mscale": own, "--mscale-all-dim": base
    }  # fmt: skip


def _position_arguments(m: ModelConfig) -> Arguments:
    arguments: Arguments = {"--position-embedding-type": _POSITIONS.get(m.position, "none")}
    if m.position != "rotary":
        return arguments
    arguments["--rotary-base"] = round(m.rope_theta)
    arguments["--rotary-percent"] = m.rotary_fraction
    if m.rotary_interleaved and not m.mla:
        arguments |= {"--rotary-interleaved": True, "--no-rope-fusion": True}
    if m.rope_scaling is not None and not m.mla:
        factor = m.rope_scaling.rope_factor or 1.0
        if m.rope_scaling.rope_type == "llama3":
            arguments |= {"--use-rope-scaling": True, "--rope-scaling-factor": factor}
        elif m.rope_scaling.rope_type == "linear":
            arguments["--rotary-seq-len-interpolation-factor"] = max(round(factor), 1)
    turns = [m.rotates(layer) for layer in range(m.n_layers)]
    if not all(turns):
        arguments["--no-rope-freq"] = _runs([not turn for turn in turns])
    return arguments


def _ffn_arguments(m: ModelConfig) -> Arguments:
    arguments: Arguments = {}
    if m.gated:
        arguments["--quick-geglu" if m.activation == "quick_gelu" else "--swiglu"] = True
        if m.ffn_clamp is not None:
            arguments |= {"--activation-func-clamp-value": m.ffn_clamp, "--glu-linear-offset": 1.0}
    elif m.activation == "relu2":
        arguments["--squared-relu"] = True
    if not (m.gated and m.activation == "silu") and m.activation != "gelu_tanh":
        # The fused kernel computes the tanh approximation and nothing else.
        arguments["--no-bias-gelu-fusion"] = True
    return arguments | (_moe_arguments(m, m.moe) if m.moe else {})


def _moe_arguments(m: ModelConfig, moe: MoEConfig) -> Arguments:
    arguments: Arguments = {
        "--num-experts": moe.n_experts,
        "--moe-ffn-hidden-size": moe.expert_intermediate_size,
        "--moe-router-topk": moe.n_experts_per_token,
        "--moe-router-score-function": moe.router_scores,
    }
    if m.n_dense_layers:
        arguments["--moe-layer-freq"] = _runs([m.has_experts(layer) for layer in range(m.n_layers)])
    if moe.n_shared_experts:
        arguments["--moe-shared-expert-intermediate-size"] = moe.shared_expert_width
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
    """A layer-by-layer list in the form of the arguments, such as ([0]*1+[1]*23)."""
    runs: list[list[int]] = []
    for flag in layers:
        if runs and runs[-1][0] == flag:
            runs[-1][1] += 1
        else:
            runs.append([int(flag), 1])
    return f"({'+'.join(f'[{flag}]*{times}' for flag, times in runs)})"
