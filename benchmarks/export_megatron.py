"""Exports held against megatron-core itself: counts and logits of small models of every choice, on the CPU.

    uv run --extra train --with 'megatron-core==0.16.1' python benchmarks/export_megatron.py

megatron-core's modules without Transformer Engine are built from the arguments as Megatron-LM's
`core_transformer_config_from_args` translates them. They expect a GPU in places: those are put off below. Its
plain attention cannot have values of another width than keys: in latent attention torch's stands in for it.
"""

import contextlib
import os
import re
from typing import Any

import torch
import torch.nn.functional as F

torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment]
torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: None  # type: ignore[assignment]
torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment]
_ones = torch.ones
torch.ones = lambda *a, device=None, **k: _ones(*a, **k, device=None if device == "cuda" else device)

import megatron.core.models.backends as backends  # noqa: E402
import megatron.core.tensor_parallel as tensor_parallel  # noqa: E402
import megatron.core.transformer.dot_product_attention as attention  # noqa: E402
import megatron.core.transformer.moe.moe_utils as moe_utils  # noqa: E402
import megatron.core.transformer.multi_latent_attention as latent  # noqa: E402
from megatron.core import parallel_state  # noqa: E402
from megatron.core.activations import squared_relu  # noqa: E402
from megatron.core.fusions.fused_bias_geglu import quick_gelu  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import (  # noqa: E402
    get_gpt_decoder_block_spec,
    get_gpt_layer_local_spec,
)
from megatron.core.transformer import MLATransformerConfig, TransformerConfig  # noqa: E402

import parambudget as pb  # noqa: E402
from parambudget.arch.config import ModelConfig  # noqa: E402
from parambudget.cost.params import total  # noqa: E402
from parambudget.formats.megatron import to_megatron  # noqa: E402
from parambudget.nn.transformer import Transformer  # noqa: E402

TINY = {
    "dim": 32, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "head_dim": 12, "intermediate_size": 40,
    "vocab_size": 50, "context_length": 24,
}  # fmt: skip
MOE = {"n_experts": 6, "n_experts_per_token": 2, "expert_intermediate_size": 20}
SIGMOID = {"router_scores": "sigmoid", "correction_bias": True, "routing_multiplier": 2.5}
GROUPS = {"n_experts": 8, "n_expert_groups": 4, "n_groups_per_token": 2}
MLA = {
    "kv_lora_rank": 12, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "n_kv_heads": 4, "rotary_interleaved": True,
}  # fmt: skip
BIASES = {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True}
PLAIN = BIASES | {"norm": "layernorm", "gated": False, "activation": "gelu"}
CASES: dict[str, dict[str, Any]] = {
    "as llama": {},
    "untied": {"tied": False},
    "biases of queries, keys, values": {"qkv_bias": True},
    "as GPT-2": PLAIN | {"position": "learned", "activation": "gelu_tanh"},
    "exact gelu, half rotated": PLAIN | {"rotary_fraction": 0.5},
    "LayerNorm": {"norm": "layernorm"},
    "no positions": {"position": "none"},
    "layers without positions": {"rotary_pattern": ("rotary", "rotary", "none")},
    "neighbours turn": {"rotary_interleaved": True},
    "norms on heads": {"qk_norm": "head"},
    "LayerNorms on heads": {"qk_norm": "head", "norm": "layernorm"},
    "squared ReLU": {"gated": False, "activation": "relu2"},
    "quick_gelu": {"activation": "quick_gelu"},
    "clamped quick_gelu": {"activation": "quick_gelu", "ffn_clamp": 3.0},
    "windows": {"window": 5},
    "windows in every other layer": {"window": 5, "window_pattern": ("local", "global")},
    "attention sinks": {"attention_sinks": True},
    "experts, first dense": MOE | {"n_first_dense": 1},
    "experts in every other layer": MOE | {"moe_pattern": ("dense", "experts")},
    "weights of experts as they are": MOE | {"norm_expert_weights": False, "routing_multiplier": 1.5},
    "one expert": MOE | {"n_experts_per_token": 1, "norm_expert_weights": False},
    "gated shared experts": MOE | {"n_shared_experts": 2, "shared_expert_gate": True},
    "biased experts": MOE | BIASES | {"expert_bias": True, "router_bias": True},
    "sigmoid router": MOE | SIGMOID,
    "groups, by their best two": MOE | SIGMOID | GROUPS | {"n_experts_per_token": 4},
    "groups, by their best one": MOE | GROUPS | {"norm_expert_weights": False},
    "latent attention": MLA,
    "latent attention, queries at once": MLA | {"q_lora_rank": None},
    "latent attention and experts": MLA | MOE | {"n_first_dense": 1, "n_shared_experts": 1},
    "latent attention, biases behind it": MLA | PLAIN | {"qkv_bias": False},
}  # fmt: skip
OUTSIDE = {
    "embed": "embedding.word_embeddings", "position": "embedding.position_embeddings",
    "norm": "decoder.final_layernorm", "lm_head": "output_layer",
}  # fmt: skip
INSIDE = {
    "attention_norm": "input_layernorm", "ffn_norm": "pre_mlp_layernorm",
    "attention.out": "self_attention.linear_proj", "attention.q_norm": "self_attention.q_layernorm",
    "attention.k_norm": "self_attention.k_layernorm", "attention.q_down": "self_attention.linear_q_down_proj",
    "attention.q_up": "self_attention.linear_q_up_proj",
    "attention.kv_down": "self_attention.linear_kv_down_proj",
    "attention.kv_up": "self_attention.linear_kv_up_proj",
    "attention.q_latent_norm": "self_attention.q_layernorm",
    "attention.kv_latent_norm": "self_attention.kv_layernorm", "ffn.router": "mlp.router",
    "ffn.shared": "mlp.shared_experts", "ffn.experts": "mlp.experts.local_experts", "ffn": "mlp",
}  # fmt: skip
FIELDS = {
    "--num-layers": "num_layers", "--hidden-size": "hidden_size", "--ffn-hidden-size": "ffn_hidden_size",
    "--num-attention-heads": "num_attention_heads", "--kv-channels": "kv_channels",
    "--normalization": "normalization", "--norm-epsilon": "layernorm_epsilon",
    "--num-query-groups": "num_query_groups", "--qk-layernorm": "qk_layernorm",
    "--add-qkv-bias": "add_qkv_bias",
    "--softmax-type": "softmax_type", "--rotary-interleaved": "rotary_interleaved",
    "--activation-func-clamp-value": "activation_func_clamp_value",
    "--glu-linear-offset": "glu_linear_offset",
    "--attention-dropout": "attention_dropout", "--hidden-dropout": "hidden_dropout",
    "--num-experts": "num_moe_experts", "--moe-ffn-hidden-size": "moe_ffn_hidden_size",
    "--moe-router-topk": "moe_router_topk", "--moe-router-score-function": "moe_router_score_function",
    "--moe-router-pre-softmax": "moe_router_pre_softmax",
    "--moe-router-enable-expert-bias": "moe_router_enable_expert_bias",
    "--moe-router-topk-scaling-factor": "moe_router_topk_scaling_factor",
    "--moe-router-num-groups": "moe_router_num_groups", "--moe-router-group-topk": "moe_router_group_topk",
    "--moe-shared-expert-intermediate-size": "moe_shared_expert_intermediate_size",
    "--moe-shared-expert-gate": "moe_shared_expert_gate",
    "--multi-latent-attention": "multi_latent_attention", "--kv-lora-rank": "kv_lora_rank",
    "--qk-head-dim": "qk_head_dim", "--qk-pos-emb-head-dim": "qk_pos_emb_head_dim",
    "--v-head-dim": "v_head_dim", "--rope-type": "rope_type",
    "--rotary-scaling-factor": "rotary_scaling_factor",
}  # fmt: skip
LISTS = {
    "--window-attn-skip-freq": "window_attn_skip_freq", "--no-rope-freq": "no_rope_freq",
    "--moe-layer-freq": "moe_layer_freq",
}  # fmt: skip


class Attention(attention.DotProductAttention):
    """megatron-core's own, but for latent attention."""

    def __init__(self, *args: Any, **more: Any) -> None:
        widths = [more.pop(name, None) for name in ("k_channels", "v_channels")]
        scale = more.pop("softmax_scale", None) if any(widths) else None
        super().__init__(*args, **more)
        self.scale_of_latents = scale

    def forward(self, query: Any, key: Any, value: Any, *args: Any, **more: Any) -> Any:
        """Sequence first, heads third."""
        if self.scale_of_latents is None:
            return super().forward(query, key, value, *args, **more)
        parts = (part.permute(1, 2, 0, 3) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True, scale=self.scale_of_latents)
        return mixed.permute(2, 0, 1, 3).flatten(2)


def without_a_gpu() -> None:
    """One process, and none of what needs a GPU or Transformer Engine."""
    tracker = type("Tracker", (), {"fork": lambda *_: contextlib.nullcontext()})()
    for module in (tensor_parallel, tensor_parallel.random, attention):
        module.get_cuda_rng_tracker = lambda: tracker
    for name in ("TELinear", "TEColumnParallelLinear"):
        setattr(latent, name, type(name, (), {}))
    moe_utils.te_general_gemm = None
    backends.DotProductAttention = Attention
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    parallel_state.initialize_model_parallel()


def loaded(model: ModelConfig) -> GPTModel:
    """megatron-core's model of the exported arguments."""
    a = to_megatron(model).document
    settings = {field: a[name] for name, field in FIELDS.items() if name in a}
    settings |= {field: eval(a[name]) for name, field in LISTS.items() if name in a}
    settings["add_bias_linear"] = "--disable-bias-linear" not in a
    if "--window-size" in a:
        settings["window_size"] = tuple(map(int, a["--window-size"].split(",")))
    if "--swiglu" in a or "--quick-geglu" in a:
        settings |= {"gated_linear_unit": True, "activation_func": F.silu if "--swiglu" in a else quick_gelu}
    if "--squared-relu" in a:
        settings["activation_func"] = squared_relu
    fused = not {"--swiglu", "--no-bias-gelu-fusion"} & a.keys() and settings["add_bias_linear"]
    settings |= dict.fromkeys(
        ("apply_rope_fusion", "persist_layer_norm", "gradient_accumulation_fusion"), False
    )
    settings |= {"use_cpu_initialization": True, "bias_activation_fusion": fused}
    if model.mla:
        settings |= {"q_lora_rank": a.get("--q-lora-rank"), "rotary_base": a["--rotary-base"]}
    config = (MLATransformerConfig if model.mla else TransformerConfig)(**settings)
    if model.moe:
        spec = get_gpt_decoder_block_spec(
            config, use_transformer_engine=False, normalization=config.normalization
        )
    else:
        spec = get_gpt_layer_local_spec(
            qk_layernorm=config.qk_layernorm, multi_latent_attention=model.mla is not None,
            normalization=config.normalization,
        )  # fmt: skip
    return GPTModel(
        config, spec, vocab_size=a["--vocab-size"], max_sequence_length=a["--max-position-embeddings"],
        share_embeddings_and_output_weights="--untie-embeddings-and-output-weights" not in a,
        position_embedding_type=a["--position-embedding-type"],
        rotary_percent=a.get("--rotary-percent", 1.0), rotary_base=a.get("--rotary-base", 10_000),
    )  # fmt: skip


def named(weights: dict[str, torch.Tensor], m: ModelConfig) -> dict[str, torch.Tensor]:
    """Our weights under Megatron's names: gate and up in one; a group's queries, key and value too."""
    theirs = {}
    for name, weight in weights.items():
        place, kind = name.rsplit(".", 1)
        if place in OUTSIDE:
            theirs[f"{OUTSIDE[place]}.{kind}"] = weight
            continue
        _, layer, rest = name.split(".", 2)
        rest = rest.replace("attention.sinks", "self_attention.core_attention.softmax_offset")
        rest = rest.replace("ffn.shared_gate.weight", "mlp.shared_experts.gate_weight")
        ours = next((start for start in INSIDE if rest.startswith(f"{start}.")), "")
        theirs[f"decoder.layers.{layer}.{INSIDE.get(ours, ours)}{rest[len(ours) :]}"] = weight
    for name in [name for name in theirs if re.search(r"mlp\..*up\.|mlp\.up\.", name)]:
        gate, up = name.replace(".up.", ".gate."), theirs.pop(name)
        whole = torch.cat([theirs.pop(gate), up]) if gate in theirs else up
        theirs[name.replace(".up.", ".linear_fc1.")] = whole
    for name in [name for name in theirs if ".attention.q." in name]:
        if m.mla:
            theirs[name.replace(".attention.q.", ".self_attention.linear_q_proj.")] = theirs.pop(name)
            continue
        parts = [theirs.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        parts = [part.unflatten(0, (m.n_kv_heads, -1)) for part in parts]
        qkv = name.replace(".attention.q.", ".self_attention.linear_qkv.")
        theirs[qkv] = torch.cat(parts, 1).flatten(0, 1)
    return {name.replace(".down.", ".linear_fc2."): weight for name, weight in theirs.items()}


def difference(model: ModelConfig, theirs: GPTModel) -> float:
    """Largest difference of any logit, with random weights of the same values on both sides."""
    torch.manual_seed(0)
    ours = Transformer(model)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {name: weight for name, weight in ours.state_dict().items() if "correction" not in name}
    found = theirs.load_state_dict(named(weights, model), strict=False)
    others = ("extra_state", "expert_bias", "tokens_per_expert", "output_layer.weight")
    missing = [name for name in found.missing_keys if not name.endswith(others)]
    assert not missing, missing
    assert set(found.unexpected_keys) <= ({"output_layer.weight"} if model.tied else set()), found
    tokens = torch.randint(0, model.vocab_size, (2, 20))
    mask = torch.ones(20, 20, dtype=torch.bool).triu(1).expand(2, 1, 20, 20)
    with torch.no_grad():
        logits = theirs.eval()(tokens, torch.arange(20).expand(2, 20), mask)
        return float((ours.eval()(tokens) - logits).abs().max())


def main() -> None:
    """Print how far logits are apart."""
    without_a_gpu()
    worst = 0.0
    for name, fields in CASES.items():
        model = pb.model(**TINY | fields)
        theirs = loaded(model)
        assert sum(parameter.numel() for parameter in theirs.parameters()) == total(model), name
        worst = max(worst, off := difference(model, theirs))
        print(f"{off:8.1e}  {name}")
    print(f"{len(CASES)} small models: counts as planned, logits within {worst:.1e} in float32")


if __name__ == "__main__":
    main()
