"""Exports held against litgpt itself: counts of presets, counts and logits of small models of every choice.

uv run --extra train --with litgpt python benchmarks/export_litgpt.py
"""

import tempfile
from pathlib import Path

import litgpt
import torch

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import PRESETS
from parambudget.cost.params import total
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import write_into
from parambudget.formats.litgpt import to_litgpt
from parambudget.nn.transformer import Transformer

TINY = {
    "dim": 32, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "head_dim": 12, "intermediate_size": 40,
    "vocab_size": 50, "context_length": 24,
}  # fmt: skip
MOE = {"n_experts": 6, "n_experts_per_token": 2, "expert_intermediate_size": 20}
SIGMOID = MOE | {"router_scores": "sigmoid", "correction_bias": True}
MLA = {
    "kv_lora_rank": 12, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "n_kv_heads": 4,
}  # fmt: skip
PLAIN = {"norm": "layernorm", "gated": False, "activation": "gelu"}
BIASES = {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True}
WINDOWS = {"window": 5, "window_pattern": ("local", "global"), "rope_theta_local": 100.0}
CAPS = {"attention_softcap": 20.0, "logit_softcap": 10.0, "attention_multiplier": 0.25}
CASES = {
    "as llama": {},
    "untied, bias on the head": {"tied": False, "head_bias": True},
    "biases of queries, keys, values": {"qkv_bias": True},
    "as GPT-NeoX": PLAIN | BIASES | {"block": "parallel", "rotary_fraction": 0.5},
    "parallel, one norm": PLAIN | {"block": "parallel_shared_norm", "activation": "gelu_tanh"},
    "no positions": {"position": "none"},
    "neighbours turn": {"rotary_interleaved": True, "rotary_fraction": 0.5},
    "as Gemma": {"norm_placement": "sandwich", "activation": "gelu", "embedding_multiplier": 32**0.5}
    | CAPS | WINDOWS,
    "as OLMo 2": {"norm_placement": "reordered", "qk_norm": "full"},
    "parallel sandwich": {"block": "parallel", "norm_placement": "sandwich"},
    "parallel sandwich, one norm": {"block": "parallel_shared_norm", "norm_placement": "sandwich"},
    "parallel, norms behind": {"block": "parallel", "norm_placement": "reordered"},
    "LayerNorm on heads": {"norm": "layernorm", "qk_norm": "head"},
    "norms without parameters": {"norm": "layernorm", "norm_weight": False},
    "experts": MOE | {"n_first_dense": 1, "n_shared_experts": 2, "routing_multiplier": 1.5},
    "sigmoid router": SIGMOID | {"norm_expert_weights": False},
    "groups of experts": SIGMOID | {"n_expert_groups": 3, "n_groups_per_token": 2},
    "groups of one": SIGMOID | {"n_expert_groups": 6, "n_groups_per_token": 3},
    "latent attention": MLA | {"rotary_interleaved": True},
    "latent attention, biases, halves turn": MLA | {"qkv_bias": True},
}  # fmt: skip
OUTSIDE = {"embed": "transformer.wte", "norm": "transformer.ln_f", "lm_head": "lm_head"}
INSIDE = {
    "attention_norm": "norm_1", "ffn_norm": "norm_2", "attention_out_norm": "post_attention_norm",
    "ffn_out_norm": "post_mlp_norm", "attention.out": "attn.proj", "attention.q_norm": "attn.norm_q",
    "attention.k_norm": "attn.norm_k", "attention.q_down": "attn.q_a_proj", "attention.q_up": "attn.q_b_proj",
    "attention.q_latent_norm": "attn.q_a_norm", "attention.kv_down": "attn.kv_a_proj_with_mqa",
    "attention.kv_up": "attn.kv_b_proj", "attention.kv_latent_norm": "attn.kv_a_norm",
    "ffn.router": "mlp.gate", "ffn.shared": "mlp.shared_experts", "ffn.experts": "mlp.experts", "ffn": "mlp",
}  # fmt: skip


def loaded(model: ModelConfig) -> litgpt.GPT:
    """litgpt's model of the exported file, its head tied where the model's is."""
    with tempfile.TemporaryDirectory() as folder:
        module = litgpt.GPT(litgpt.Config.from_file(write_into(Path(folder), to_litgpt(model))))
    if model.tied:
        module.transformer.wte.weight = module.lm_head.weight
    return module


def size_of(module: torch.nn.Module) -> int:
    """Parameters, a shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def named(weights: dict[str, torch.Tensor], model: ModelConfig) -> dict[str, torch.Tensor]:
    """Our weights under litgpt's names, queries, keys and values in one."""
    theirs = {}
    for name, weight in weights.items():
        place, kind = name.rsplit(".", 1)
        if not name.startswith("layers."):
            theirs[f"{OUTSIDE[place]}.{kind}"] = weight
            continue
        _, layer, rest = place.split(".", 2)
        ours = next((start for start in INSIDE if rest == start or rest.startswith(f"{start}.")), rest)
        rest = INSIDE.get(ours, ours) + rest[len(ours) :]
        if rest.startswith("mlp") and rest != INSIDE["ffn.router"]:
            words = {"gate": "fc_1", "up": "fc_2" if model.gated else "fc", "down": "proj"}
            *path, last = rest.split(".")
            rest = ".".join([*path, words.get(last, last)])
        elif rest == "mlp.gate" and not model.has_experts(int(layer)):
            rest = "mlp.fc_1"
        theirs[f"transformer.h.{layer}.{rest}.{kind}"] = weight
    for name in [name for name in theirs if ".attention.q." in name]:
        parts = [theirs.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        theirs[name.replace(".attention.q.", ".attn.qkv.")] = torch.cat(parts)
    return theirs


def difference(model: ModelConfig) -> float:
    """Largest difference of any logit, with random weights of the same values on both sides."""
    torch.manual_seed(0)
    ours, theirs = Transformer(model).eval(), loaded(model).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {name: weight for name, weight in ours.state_dict().items() if "correction" not in name}
    found = theirs.load_state_dict(named(weights, model), strict=False)
    missing = [name for name in found.missing_keys if "e_score_correction" not in name]
    assert (missing, found.unexpected_keys) in (([], []), (["lm_head.weight"], [])), (missing, found)
    tokens = torch.randint(0, model.vocab_size, (2, 20))
    with torch.no_grad():
        return float((ours(tokens) - theirs(tokens)).abs().max())


def main() -> None:
    """Print what was counted and how far logits are apart."""
    counted, refused = 0, 0
    for name, row in PRESETS.items():
        model = row.model
        try:
            to_litgpt(model)
        except ConfigError:
            refused += 1
            continue
        with torch.device("meta"):
            assert size_of(loaded(model)) == total(model), name
        counted += 1
    print(f"{counted} presets counted as planned, {refused} refused")
    worst = 0.0
    for name, fields in CASES.items():
        model = pb.model(**TINY | fields)
        assert size_of(loaded(model)) == total(model), name
        worst = max(worst, off := difference(model))
        print(f"{off:8.1e}  {name}")
    print(f"{len(CASES)} small models: counts as planned, logits within {worst:.1e} in float32")


if __name__ == "__main__":
    main()
