"""Heads of kinds, shared keys and parts that are counted and not built: exact in every count; the last are
refused wherever a module is needed."""

import pytest

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import has_shared_blocks
from parambudget.arch.layers import attention_kinds
from parambudget.arch.presets.counted import ROWS
from parambudget.arch.presets.registry import PRESETS
from parambudget.arch.sizes import with_sizes
from parambudget.arch.table import Tensor
from parambudget.arch.tensors import is_in_group, tensors
from parambudget.cost.flops import flops_per_token
from parambudget.cost.formula import formula
from parambudget.cost.memory.forward import forward
from parambudget.cost.memory.state import inference_memory
from parambudget.cost.params import total
from parambudget.cost.step import Backend
from parambudget.errors import ConfigError
from parambudget.nn.transformer import Transformer

E2B = PRESETS["gemma-4-e2b"].model
TINY = {"dim": 32, "n_layers": 6, "n_heads": 4, "vocab_size": 50, "context_length": 24}
BLOCKS = {"n_block_index_heads": 2, "block_index_head_dim": 6, "block_index_keys": 10}
WINDOWS = {"window": 8, "window_pattern": ("local", "local", "global")}


SHARED = [row for row in PRESETS.values() if has_shared_blocks(row.model)]


@pytest.mark.parametrize("row", [*ROWS, *SHARED], ids=lambda row: row.name)
def test_the_closed_formula_is_the_count(row):
    assert formula(row.model).evaluate() == row.published_count


@pytest.mark.parametrize("row", [*ROWS, *SHARED], ids=lambda row: row.name)
def test_no_two_rows_of_the_table_have_one_name_and_one_layer(row):
    places = [(tensor.name, place) for tensor in tensors(row.model) for place in layers_of(tensor, row.model)]
    assert len(places) == len(set(places))


def layers_of(tensor: Tensor, model: ModelConfig) -> list[int]:
    layers = range(model.n_layers) if "*" in tensor.name else [0]
    return [layer for layer in layers if is_in_group(model, tensor.layers, layer)]


def test_layers_of_each_kind_follow_the_depth():
    deeper = with_sizes(E2B, n_layers=40)
    assert (deeper.n_local_layers, deeper.n_global_layers) == (32, 8)
    assert (deeper.n_kv_shared_local_layers, deeper.n_kv_shared_global_layers) == (16, 4)
    assert total(deeper) == total(E2B.replace(n_layers=40))


def test_layers_with_keys_of_earlier_ones_cache_nothing_and_score_as_the_others():
    kinds = {kind.name: (kind.copies, kind.qk_dim, kind.cached, kind.window) for kind in attention_kinds(E2B)}
    assert kinds == {
        "local attention": (12, 256, 2 * 256, 512),
        "local attention with earlier keys": (16, 256, 0, 512),
        "attention": (3, 512, 2 * 512, None),
        "attention with earlier keys": (4, 512, 0, None),
    }


def test_the_cache_of_gemma_4_is_that_of_its_two_kinds_of_heads():
    bf16, tokens = 2, 32768
    of_global, of_local = 10 * 2 * 4 * 512 * tokens, 50 * 2 * 16 * 256 * 1024
    of_31b = inference_memory(PRESETS["gemma-4-31b"].model, 1, tokens)
    assert of_31b.cache_bytes == bf16 * (of_global + of_local)


def test_flops_have_the_matmuls_and_the_scores_of_every_layer():
    """By hand, forward and backward, for one token of a sequence of 24."""
    model = pb.model(**TINY, **WINDOWS, global_head_dim=16, intermediate_size=40, n_kv_shared_layers=3)
    queries_and_outputs = 4 * (32 * 32 * 2) + 2 * (64 * 32 * 2)
    keys_and_values = 2 * (32 * 32 * 2) + 1 * (64 * 32 * 2)
    ffn, head = 6 * 3 * 40 * 32, 50 * 32
    scores = 4 * 4 * 2 * 8 * 8 + 2 * 4 * 2 * 16 * 24
    matmuls = queries_and_outputs + keys_and_values + ffn + head
    assert pb.count(model).total - 13 * 32 == matmuls
    assert flops_per_token(model) == 6 * (matmuls + scores)


def test_differential_attention_scores_values_of_two_heads_and_caches_those_of_one():
    (kind,) = attention_kinds(pb.model(**TINY, differential_attention=True))
    assert (kind.qk_dim, kind.v_dim, kind.cached) == (8, 16, 2 * 4 * 8)


def test_an_indexer_of_blocks_scores_all_pairs_and_leaves_its_layers_the_keys_of_its_blocks():
    """By hand, for one token of a sequence of 24: two layers of six are sparse."""
    model = pb.model(**TINY, **BLOCKS, block_indexer_pattern=("full", "full", "sparse"), intermediate_size=40)
    dense = pb.model(**TINY, intermediate_size=40)
    left_out, scored = 2 * 4 * 2 * 8 * (24 - 10), 2 * 2 * 6 * 24
    projections = 2 * (2 * 6 * 32 + 6 * 32)
    assert flops_per_token(model) == flops_per_token(dense) - 6 * left_out + 2 * (scored + projections)
    assert pb.count(model).total == pb.count(dense).total + projections + 2 * 2 * 6
    longer = inference_memory(model, 1, 100).cache_bytes - inference_memory(dense, 1, 100).cache_bytes
    assert longer == 2 * 100 * 2 * 6
    assert formula(model).evaluate() == pb.count(model).total
    short = model.replace(context_length=10)
    assert flops_per_token(short) == flops_per_token(dense.replace(context_length=10))


def test_hyper_connections_gates_and_gated_norms_are_counted_as_the_formula_says():
    latents = {"kv_lora_rank": 8, "q_lora_rank": 10, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4}
    model = pb.model(
        **TINY, **latents, v_head_dim=5, latent_gate="latent", n_hyper_streams=3, gated_norm_rank=2
    )
    plain = pb.model(**TINY, **latents, v_head_dim=5)
    gates = 6 * (4 * (8 + 5) * 20 - 4 * 8 * 10) + 6 * 2 * 2 * 32
    streams = 6 * 2 * (6 * 3 * 32 + 6 + 2) + 3 * 3 * 32 + 3 + 1
    assert pb.count(model).total == pb.count(plain).total + gates + streams
    assert formula(model).evaluate() == pb.count(model).total


ZAMBA = {
    **TINY, "mixer_pattern": ("mamba2", "attention+mamba2"), "ffn_pattern": ("none", "ffn"),
    "mamba2_n_heads": 4, "mamba2_head_dim": 16, "mamba2_state_dim": 8, "intermediate_size": 40,
}  # fmt: skip


def test_a_shared_block_counts_once_and_computes_and_caches_at_each_use():
    """By hand: two blocks in three layers; the first is used twice."""
    model = pb.model(**ZAMBA, n_shared_blocks=2, shared_adapter_rank=3, shared_attention_adapters=True)
    alone = pb.model(**ZAMBA | {"n_heads": 1, "mixer_pattern": ("mamba2",), "ffn_pattern": ("none",)})
    block = 3 * 32 * 64 + 32 * 32 + 3 * 40 * 32
    of_each_use = 32 * 32 + 3 * 2 * 3 * 64 + 3 * 32 + 2 * 3 * 40
    counted, plain = pb.count(model), pb.count(alone)
    assert counted.total == plain.total + 2 * (block + 64 + 32) + 3 * of_each_use
    assert counted.active == counted.total
    assert formula(model).evaluate() == counted.total
    scores = 4 * 2 * 8 * 24
    assert flops_per_token(model) == flops_per_token(alone) + 6 * 3 * (block + of_each_use + scores)
    longer = inference_memory(model, 1, 100).cache_bytes - inference_memory(alone, 1, 100).cache_bytes
    assert longer == 2 * 100 * 3 * 2 * 32


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"laurel_rank": 4, "kv_lora_rank": 8}, "laurel_rank goes with attention over heads"),
        ({"latent_gate": "element"}, "latent_gate='element' is for latent attention; set kv_lora_rank"),
        ({"latent_gate": "latent", "kv_lora_rank": 8}, "latent_gate='latent' is a gate of the query latent"),
        ({"block_index_keys": 8}, "n_block_index_heads, block_index_head_dim and block_index_keys go "),
        ({"laurel_rank": 4, "block_indexer_pattern": ("full",)}, "block_indexer_pattern needs an indexer"),
        ({**BLOCKS, **WINDOWS}, "an indexer of blocks goes with attention to all keys of the same layer"),
        ({"counted_parts": {}}, "counted_parts has none of its fields set"),
        ({"n_zero_experts": 2}, "shortcut_experts and n_zero_experts need experts"),
        ({"attention_experts": True}, "attention_experts needs experts"),
        ({"n_shared_blocks": 2}, "n_shared_blocks needs a mixer in every layer"),
        (ZAMBA | {"n_shared_blocks": 4}, "n_shared_blocks=4 is more than the 3 layers with attention"),
        (
            ZAMBA | {"n_shared_blocks": 1, "ffn_pattern": ("ffn",)},
            "needs layers that have attention and an FFN",
        ),
        (ZAMBA | {"n_shared_blocks": 1, "window": 4}, "n_shared_blocks is not defined with window"),
        (ZAMBA | {"n_shared_blocks": 1, "norm_placement": "sandwich"}, "needs norm_placement='pre'"),
        ({"shared_adapter_rank": 4}, "shared_adapter_rank is for the uses of shared blocks"),
        (ZAMBA | {"n_shared_blocks": 1, "shared_attention_adapters": True}, "needs their rank"),
    ],
)
def test_parts_that_contradict_the_model_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        pb.model(**TINY | fields)


def module(model: ModelConfig) -> object:
    return Transformer(model, device="meta")


def memory(model: ModelConfig) -> object:
    return forward(model, Backend(), 64)


@pytest.mark.parametrize("needs_module", [module, memory, pb.verify])
def test_what_needs_a_module_refuses_the_model(needs_module):
    with pytest.raises(ConfigError, match="a model with laurel_rank is counted and not built") as caught:
        needs_module(pb.model(**TINY, laurel_rank=4))
    assert "\n" not in str(caught.value)


def test_a_search_refuses_what_it_could_not_build():
    with pytest.raises(ConfigError, match="a model with laurel_rank is counted and not built"):
        pb.solve("1M", laurel_rank=4)
