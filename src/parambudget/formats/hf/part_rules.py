"""Rules about parts that few models have: heads of single layers, shared keys, embeddings for each layer,
residual streams, differential attention."""

from typing import Any, Final, TypeGuard

from parambudget.errors import ConfigError
from parambudget.formats.hf.layer_rules import (
    expert_layers,
    gemma4_layer_types,
    gemma4_windows,
    local_layers,
    mimo_windows,
    no_windows_by_default,
    require_one_per_layer,
    require_value,
)
from parambudget.formats.hf.rules import read_positive
from parambudget.formats.hf.schema import Config, Fields

_HEAD_KEYS: Final = ("head_dim", "num_key_value_heads")
"""What global layers of Gemma 4 may have of their own."""


def heads_of_global_layers(c: Config) -> Fields:
    """Gemma 4's layers without a window have wider heads, and may use their keys as values; files that the
    class has saved give the heads layer by layer."""
    head_dim, n_kv_heads = c["global_head_dim"], None
    if c["attention_k_eq_v"]:
        n_kv_heads = c["num_global_key_value_heads"]
    if c["per_layer_config"]:
        head_dim, n_kv_heads = _saved_heads(c)
    keys_as_values = {"global_keys_as_values": c["attention_k_eq_v"]}
    if not any(local_layers(gemma4_windows(c), c["num_hidden_layers"])):
        return {"head_dim": head_dim, "n_kv_heads": n_kv_heads, **keys_as_values}
    return {
        "global_head_dim": None if head_dim == c["head_dim"] else head_dim,
        "global_n_kv_heads": None if n_kv_heads == c["num_key_value_heads"] else n_kv_heads,
        **keys_as_values,
    }


def _saved_heads(c: Config) -> tuple[Any, Any]:
    """The width and the number of key/value heads that `per_layer_config` gives to all global layers."""
    types = gemma4_layer_types(c)
    layers = [str(at) for at, kind in enumerate(types) if kind == "full_attention"]
    own: dict[str, Any] = c["per_layer_config"]
    heads = own.get(layers[0])
    if own != dict.fromkeys(layers, heads) or not _are_heads(heads):
        raise ConfigError(
            "per_layer_config gives layers sizes of their own, which is not modelled; only "
            f"{' and '.join(_HEAD_KEYS)} of all layers with full attention may differ"
        )
    return heads.get("head_dim", c["head_dim"]), heads.get("num_key_value_heads", c["num_key_value_heads"])


def _are_heads(heads: Any) -> TypeGuard[dict[str, int]]:
    """Whether it is an object of positive sizes of heads and nothing else."""
    return isinstance(heads, dict) and all(
        key in _HEAD_KEYS and type(value) is int and value > 0 for key, value in heads.items()
    )


def shared_keys(c: Config) -> Fields:
    """The last layers of Gemma 3n and 4 use the keys and values of earlier ones, and may have a wider FFN."""
    if not c["num_kv_shared_layers"]:
        return {}
    factor = 2 if c.get("use_double_wide_mlp") else 1
    return {"n_kv_shared_layers": c["num_kv_shared_layers"], "kv_shared_ffn_factor": factor}


def per_layer_embeddings(c: Config) -> Fields:
    """A narrow embedding of every token for every layer; a width of 0 means none."""
    width = c["hidden_size_per_layer_input"]
    if not width:
        return {}
    n_rows = read_positive(c, "vocab_size_per_layer_input")
    return {"per_layer_embedding_dim": width, "per_layer_vocab_size": n_rows}


def experts_beside_ffn(c: Config) -> Fields:
    """If enabled, every layer of Gemma 4 has experts beside its FFN."""
    if not c["enable_moe_block"]:
        return {}
    return {
        "n_experts": require_value(c, "num_experts"),
        "n_experts_per_token": require_value(c, "top_k_experts"),
        "expert_intermediate_size": require_value(c, "moe_intermediate_size"),
        "experts_beside_ffn": True,
    }


def one_ffn_width(c: Config) -> Fields:
    """Gemma 3n's FFN widths, one for all layers or a list; different ones are refused."""
    widths = c["intermediate_size"]
    if not isinstance(widths, list):
        return {"intermediate_size": widths}
    require_one_per_layer("intermediate_size", widths, c["num_hidden_layers"])
    if any(type(width) is not int or width != widths[0] for width in widths):
        raise ConfigError("intermediate_size lists different widths, which is not modelled; give one width")
    return {"intermediate_size": widths[0]}


def altup_and_laurel(c: Config) -> Fields:
    """Gemma 3n's residual streams and the branch beside attention, in all models of the class."""
    read_positive(c, "hidden_size_per_layer_input")  # the class has its norms at any width
    n_streams, rank = read_positive(c, "altup_num_inputs"), read_positive(c, "laurel_rank")
    return {"n_altup_streams": n_streams, "laurel_rank": rank}


def even_kv_heads(c: Config) -> Fields:
    """DiffLlama divides its key/value heads into two halves."""
    heads = c["num_attention_heads"] if c["num_key_value_heads"] is None else c["num_key_value_heads"]
    if heads % 2 or not heads:
        raise ConfigError(
            f"the model has {heads} key/value heads, and the class divides them into two halves; change "
            "num_key_value_heads to an even number"
        )
    return {}


def heads_of_mimo(c: Config) -> Fields:
    """MiMo-V2-Flash has twice the key/value heads in layers with a window, and sinks in those alone."""
    n_kv_heads, local = c["num_key_value_heads"], local_layers(mimo_windows(c), c["num_hidden_layers"])
    if not any(local):
        return {"n_kv_heads": n_kv_heads}
    if all(local):
        return {"n_kv_heads": 2 * n_kv_heads, "attention_sinks": True}
    return {"n_kv_heads": 2 * n_kv_heads, "global_n_kv_heads": n_kv_heads, "local_sinks": True}


def heads_of_each_layer(c: Config) -> Fields:
    """Laguna has a list of query heads over the layers; those of one type have the same number here."""
    n_heads = c["num_attention_heads_per_layer"]
    if n_heads is None:
        return {}
    require_one_per_layer("num_attention_heads_per_layer", n_heads, c["num_hidden_layers"])
    local = local_layers(no_windows_by_default(c), c["num_hidden_layers"])
    of_local = {n for n, is_local in zip(n_heads, local, strict=True) if is_local}
    of_global = {n for n, is_local in zip(n_heads, local, strict=True) if not is_local}
    if len(of_local) > 1 or len(of_global) > 1 or any(type(n) is not int or n < 1 for n in n_heads):
        raise ConfigError(
            "num_attention_heads_per_layer has several numbers for layers of one type; only one for layers "
            "with a window and one for the others is supported"
        )
    own = dict.fromkeys(("n_heads",), *(of_local or of_global))
    return own | ({"global_n_heads": next(iter(of_global))} if of_local and of_global - of_local else {})


def laguna_gates(c: Config) -> Fields:
    """A gate for each head, unless `gating` asks for one for each element."""
    gate = "head" if c["gating"] in (True, "per-head") else "element"
    return {"attention_gate": gate, "attention_gate_activation": "softplus"}


def query_heads_of_experts(c: Config) -> Fields:
    """JetMoE: each of a token's experts has as many query heads as there are key/value heads."""
    return {"n_heads": c["num_key_value_heads"] * c["num_experts_per_tok"]}


def experts_out_norm(c: Config) -> Fields:
    """A.X K1 normalizes the sum of a token's experts, where a layer has experts."""
    return {"experts_out_norm": True} if any(expert_layers(c)) else {}


def modernbert_head(c: Config) -> Fields:
    """ModernBERT projects the stream once more before its head."""
    return {"head_transform": "biased" if c["classifier_bias"] else "plain"}


def multiple_of_width(c: Config) -> Fields:
    """GPT-NeoX-Japanese gives the FFN's width as a multiple of the model's."""
    return {"intermediate_size": c["hidden_size"] * c["intermediate_multiple_size"]}


def longcat_layers(c: Config) -> Fields:
    """LongCat-Flash: a layer of the config is two of ours, and the first of them has experts too."""
    return {
        "n_layers": 2 * c["num_layers"],
        "n_experts": c["n_routed_experts"],
        "n_experts_per_token": c["moe_topk"],
        "expert_intermediate_size": c["expert_ffn_hidden_size"],
        "moe_pattern": ("experts", "dense"),
        "routing_multiplier": c["routed_scaling_factor"],
        "norm_expert_weights": False,
        "shortcut_experts": True,
        "n_zero_experts": c["zero_expert_num"],
    }


def hy_v4_streams(c: Config) -> Fields:
    """Hy4: hyper-connections, gates on attention, and experts whose activations are clamped."""
    return {"n_hyper_streams": c["hc_mult"], "latent_gate": "element", "attention_sinks": True}
