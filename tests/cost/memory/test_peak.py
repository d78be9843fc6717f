"""The planned memory of training, held against torch: the allocator of a real step, its tracker, autograd."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st
from support.allocator_peak import peak_of_a_real_update
from support.steps import step_of
from support.storage_tracker import peak_of_an_update, state_of, update, windows
from support.strategies import hybrids, models
from support.tiny_model import SMALL, built
from support.training_data import small_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import uses_eager_attention
from parambudget.arch.presets.registry import PRESETS
from parambudget.arch.sizes import with_sizes
from parambudget.cost.memory.forward import masks
from parambudget.cost.memory.peak import largest_micro_batch, memory_timeline, peak_bytes, training_memory
from parambudget.cost.memory.state import inference_memory, trained_parameters
from parambudget.cost.params import total
from parambudget.cost.step import NO_OVERHEAD, ON_CPU, Backend, StepConfig
from parambudget.errors import InputError
from parambudget.nn.kv_cache import CachedAttention, kv_cache
from parambudget.nn.transformer import Block

TOLERANCE = {False: 0.02, True: 0.04}
"""In bfloat16 the CPU's matmuls and GELU take a few hundred kilobytes of their own."""
WRITTEN_OUT = 0.03
"""Of scores and of xIELU, which are written out: a first forward pass may hold 2.2 % more than any moment
that is followed (one sequence, ALiBi)."""
OF_EXPERTS = 0.07
"""Of a few hundred random ones the worst were 4.6 % above and 5.9 % below what was planned: what is in flight
between experts that run in turn, as they do on a CPU alone."""
OF_BF16_MATMULS = 300_000
"""Bytes that a CPU's bfloat16 matmul takes for itself, which a model of two megabytes may notice."""
CPU = torch.device("cpu")
ways = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([1, 4]),
        "gradient_accumulation_steps": st.sampled_from([1, 2]),
        "optimizer": st.sampled_from(["adamw", "muon"]),
        "gradient_checkpointing": st.booleans(),
        "loss_chunks": st.sampled_from([1, 3]),
    }
)
plans = st.builds(
    lambda micro_steps, world_size, **fields: step_of(
        gradient_accumulation_steps=micro_steps * world_size, world_size=world_size, **fields
    ),
    micro_steps=st.sampled_from([1, 2, 8]), batch_size=st.integers(1, 64),
    optimizer=st.sampled_from(["adamw", "muon"]), gradient_checkpointing=st.booleans(),
    loss_chunks=st.sampled_from([1, 3]), z_loss=st.sampled_from([0.0, 1e-4]),
    world_size=st.sampled_from([1, 4]),
    backend=st.builds(Backend, st.sampled_from(["cuda", "cpu"]), st.booleans(), st.booleans()),
)  # fmt: skip


@st.composite
def larger_models(draw: st.DrawFn, *, experts: bool = True) -> ModelConfig:
    """Any architecture, of a size at which a kernel's own few kilobytes are nothing."""
    model = draw(models(experts=experts))
    sizes = {
        "dim": 8 * model.dim + 64, "head_dim": 8 * model.head_dim, "vocab_size": 20 * model.vocab_size + 100,
        "intermediate_size": 16 * model.intermediate_size + 256,
        "context_length": 8 * model.context_length + 64,
    }  # fmt: skip
    if model.embedding_dim:
        sizes["embedding_dim"] = 8 * model.embedding_dim + 60
    if model.moe:
        # A token that meets all experts gives each as much as any other, whatever its router has learned.
        sizes["expert_intermediate_size"] = 16 * model.moe.expert_intermediate_size + 256
        sizes["n_experts_per_token"] = model.moe.n_experts
        sizes["n_groups_per_token"] = model.moe.n_expert_groups
    if model.mla:
        sizes |= {
            name: 8 * size for name, size in model.mla.model_dump().items() if size and name.endswith("_dim")
        }
        sizes["kv_lora_rank"] = 8 * model.mla.kv_lora_rank
    if model.rope_scaling is not None and model.rope_scaling.rope_short_factors:
        sizes["rope_scaling"] = None  # one factor per pair, of heads that are wider now
    if model.indexer:
        sizes |= {name: 8 * getattr(model.indexer, name) for name in ("index_head_dim", "index_top_k")}
    return model.replace(**sizes)


def tolerance_of(model, *, bf16: bool = False) -> float:
    if model.moe is not None:
        return OF_EXPERTS
    written_out = model.attention_softcap is not None or model.attention_sinks or model.activation == "xielu"
    return max(TOLERANCE[bf16], WRITTEN_OUT) if written_out else TOLERANCE[bf16]


def on_cpu(*, bf16: bool = False, **way: object) -> StepConfig:
    return step_of(backend=replace(ON_CPU, bf16=bf16), **way)


OF_160_TOKENS = {
    "dim": 128, "n_layers": 4, "n_heads": 4, "intermediate_size": 400, "vocab_size": 400,
    "context_length": 160,
}  # fmt: skip
WINDOWED = {"window": 40, "window_pattern": ["local", "global"]}
LATENT = {
    "kv_lora_rank": 64, "q_lora_rank": 48, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 24,
}  # fmt: skip
UNGATED_XIELU = {"activation": "xielu", "gated": False}
CHOICES_OF_FEW_FAMILIES = [
    {"value_head_dim": 48}, {"value_head_dim": 48, "n_kv_heads": 2}, {"value_head_dim": 16},
    WINDOWED | {"window_kind": "chunked"}, WINDOWED | {"global_head_dim": 64},
    WINDOWED | {"global_n_heads": 8}, WINDOWED | {"global_n_kv_heads": 4, "n_kv_heads": 2},
    WINDOWED | {"global_keys_as_values": True}, WINDOWED | {"local_sinks": True},
    WINDOWED | {"n_kv_shared_layers": 2, "kv_shared_ffn_factor": 2},
    {"n_kv_shared_layers": 2}, {"n_kv_shared_layers": 2, "kv_shared_ffn_factor": 2},
    {"attention_gate": "element"}, {"attention_gate": "head"},
    {"attention_gate": "element", "attention_gate_activation": "softplus"},
    LATENT, LATENT | {"attention_gate": "head"},
    {"differential_attention": True}, {"differential_attention": True, "n_kv_heads": 2},
    WINDOWED | {"differential_attention": True, "n_kv_heads": 2},
    {"qk_norm": "head", "qk_norm_after_rotation": True}, {"qk_norm": "l2"}, {"value_norm": True},
    {"value_multiplier": 0.5}, {"qkv_clip": 1.0}, {"sub_norms": True}, {"layer_scale": True},
    {"query_scale": "log"}, {"query_scale": "power", "query_scale_strength": 0.5, "query_scale_length": 64},
    {"position": "sinusoidal"}, WINDOWED | {"rotary_fraction_local": 0.5}, {"embedding_dim": 64},
    {"channel_mix": True, "gated": False, "activation": "relu2"},
    UNGATED_XIELU, UNGATED_XIELU | {"attention_softcap": 30.0},
]  # fmt: skip


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("way", [{}, {"gradient_checkpointing": True}], ids=str)
@pytest.mark.parametrize("choice", CHOICES_OF_FEW_FAMILIES, ids=str)
def test_what_few_families_choose_takes_what_is_planned(choice, way, bf16):
    model = pb.model(**OF_160_TOKENS | choice)
    planned = training_memory(model, on_cpu(bf16=bf16, batch_size=4, optimizer="adamw", **way)).peak_bytes
    assert planned == pytest.approx(peak_of_a_real_update(model, bf16=bf16, batch_size=4, **way), rel=0.007)


@seed(0)
@settings(max_examples=20, deadline=None)
@given(larger_models(), ways, st.booleans())
def test_a_real_update_allocates_what_is_planned(model, way, bf16):
    planned = training_memory(model, on_cpu(bf16=bf16, **way)).peak_bytes
    real = peak_of_a_real_update(model, bf16=bf16, **way)
    scratch = OF_BF16_MATMULS if bf16 else 0
    assert planned == pytest.approx(real, rel=tolerance_of(model, bf16=bf16), abs=scratch)


@pytest.mark.parametrize("way", [{}, {"gradient_checkpointing": True}], ids=str)
def test_the_masks_of_indexers_take_what_is_planned(way):
    model = pb.model(
        dim=128, n_layers=4, n_heads=4, kv_lora_rank=64, q_lora_rank=48, qk_nope_head_dim=32,
        qk_rope_head_dim=16, v_head_dim=24, intermediate_size=400, vocab_size=400, context_length=160,
        n_index_heads=3, index_head_dim=32, index_top_k=40, indexer_pattern=("own", "shared"),
    )  # fmt: skip
    planned, dense = (
        training_memory(each, on_cpu(batch_size=4, optimizer="adamw", **way)).peak_bytes
        for each in (model, model.replace(indexer=None))
    )
    assert planned > dense
    assert planned == pytest.approx(peak_of_a_real_update(model, batch_size=4, **way), rel=0.001)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("way", [{}, {"gradient_checkpointing": True}], ids=str)
def test_embeddings_of_each_layer_take_what_is_planned(way, bf16):
    model = pb.model(
        dim=128, n_layers=4, n_heads=4, intermediate_size=400, vocab_size=400, context_length=160,
        per_layer_embedding_dim=64,
    )  # fmt: skip
    planned, without = (
        training_memory(each, on_cpu(bf16=bf16, batch_size=4, optimizer="adamw", **way)).peak_bytes
        for each in (model, model.replace(per_layer_embedding_dim=None))
    )
    assert planned > 1.05 * without
    assert planned == pytest.approx(peak_of_a_real_update(model, bf16=bf16, batch_size=4, **way), rel=0.02)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("way", [{}, {"gradient_checkpointing": True}], ids=str)
def test_experts_beside_an_ffn_take_what_is_planned(way, bf16):
    model = pb.model(
        dim=128, n_layers=4, n_heads=4, intermediate_size=400, vocab_size=400, context_length=160,
        norm_placement="sandwich", n_experts=4, n_experts_per_token=4, expert_intermediate_size=256,
        experts_beside_ffn=True,
    )  # fmt: skip
    planned = training_memory(model, on_cpu(bf16=bf16, batch_size=4, optimizer="adamw", **way)).peak_bytes
    assert planned == pytest.approx(peak_of_a_real_update(model, bf16=bf16, batch_size=4, **way), rel=0.02)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_of_every_preset_that_is_built_is_planned(compiled, checkpointing):
    step = step_of(
        1, backend=Backend("cuda", bf16=True, compiled=compiled), gradient_checkpointing=checkpointing
    )
    for row in PRESETS.values():
        if not row.unsupported:
            assert peak_bytes(row.model, step) > 10 * total(row.model)


@pytest.mark.parametrize(
    "way", [{}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}], ids=str
)
def test_the_z_loss_takes_what_is_planned(way):
    model = SMALL.replace(dim=128, intermediate_size=384, vocab_size=1000, context_length=128)
    planned = training_memory(model, on_cpu(batch_size=4, optimizer="adamw", z_loss=1e-4, **way)).peak_bytes
    without = training_memory(model, on_cpu(batch_size=4, optimizer="adamw", **way)).peak_bytes
    assert planned > 1.1 * without
    real = peak_of_a_real_update(model, batch_size=4, z_loss=1e-4, **way)
    assert planned == pytest.approx(real, rel=0.02)


def tracked_by_torch(model: ModelConfig, **way: object) -> int:
    """The peak of the second update as torch's own tracker has it, on fake tensors."""
    config = small_config(**way)
    with FakeTensorMode():
        state, batches = state_of(model, config, bf16=False), windows(model, config)
        update(state, config, batches)
        tracker = MemTracker()
        tracker.track_external(state.module, state.optimizer)

        def loss_fn(tokens_BT: torch.Tensor) -> torch.Tensor:
            tracker.reset_mod_stats()  # else it takes a second micro-step for a mistake
            return state.loss_fn(tokens_BT)

        with tracker:
            update(replace(state, loss_fn=loss_fn), config, batches)
    return tracker.get_tracker_snapshot("peak")[CPU]["Total"]


@seed(0)
@settings(max_examples=20, deadline=None)
@given(larger_models(experts=False), ways)
def test_torchs_tracker_sees_what_is_planned(model, way):
    """Without experts: how many tokens each gets is no number on tensors that have none. And without
    indexers, whose outputs have no gradient for its hooks."""
    assume(model.indexer is None)
    way |= {"loss_chunks": 1}  # it follows a module that is called once, and the head is called in parts
    planned = training_memory(model, on_cpu(**way)).peak_bytes
    assert planned == pytest.approx(tracked_by_torch(model, **way), rel=tolerance_of(model))


def test_both_ways_of_following_storages_see_the_same():
    way = {"batch_size": 4, "gradient_accumulation_steps": 2, "optimizer": "muon"}
    model = SMALL.replace(dim=128, intermediate_size=256, vocab_size=500, context_length=64)
    # Each forgets other single numbers.
    assert tracked_by_torch(model, **way) == pytest.approx(peak_of_an_update(model, **way), rel=1e-4)


EXPERTS = {"n_experts": 4, "n_experts_per_token": 4, "expert_intermediate_size": 256}
LATENT = {
    "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "n_kv_heads": 4
}  # fmt: skip


@pytest.mark.slow
# torch 2.15 warns of it while it compiles what surrounds the experts.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("changes", "way"),
    [
        *product(
            [{}, {"gated": False, "activation": "gelu", "tied": False}],
            [{}, {"gradient_accumulation_steps": 2}, {"loss_chunks": 4}],
        ),
        *product([EXPERTS], [{}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}]),
        (EXPERTS | {"fused_experts": True}, {}),
        (LATENT, {}),
        ({"window": 64, "window_pattern": ("local", "global")}, {}),
        ({"position": "alibi"}, {}),
        ({"attention_sinks": True}, {}),
        ({"attention_softcap": 5.0}, {}),
        ({"qkv_clip": 1.0, "embedding_dim": 128, "embedding_norm": True}, {}),
    ],
    ids=str,
)
def test_a_compiled_update_allocates_what_is_planned(changes, way):
    """With inductor's kernels for a CPU; what is kept and what is in flight is decided before it."""
    model = SMALL.replace(
        dim=256,
        head_dim=64,
        n_layers=4,
        vocab_size=1024,
        intermediate_size=768,
        context_length=256,
        **changes,
    )
    torch.compiler.reset()
    real = peak_of_a_real_update(model, bf16=True, compiled=True, batch_size=4, **way)
    plan = step_of(4, optimizer="adamw", backend=Backend("cpu"), **way)
    # Experts that run in turn inside a compiled step, recomputed: planned 6 % too low. The trainer does that
    # on no device: where it compiles, experts run at once.
    tolerance = 0.07 if way.get("gradient_checkpointing") else 0.05
    assert training_memory(model, plan).peak_bytes == pytest.approx(real, rel=tolerance)


@settings(max_examples=30)
@given(models(rare=True) | hybrids(), plans)
def test_each_moment_is_affine_in_the_micro_batch(model, plan):
    plan = plan.replace(loss_chunks=1, overhead=NO_OVERHEAD)
    totals = [[held.total for held in memory_timeline(model, plan.replace(batch_size=n))] for n in (3, 4, 10)]
    # Shares of a chunk's states are rounded up to whole bytes.
    rounded = 0 if model.mixer_pattern == ("attention",) else 14
    assert all(abs((b - a) * 6 - (c - b)) <= rounded for a, b, c in zip(*totals, strict=True))


@settings(max_examples=30)
@given(models(rare=True) | hybrids(), plans, st.integers(0, 9))
def test_no_moment_of_any_layer_holds_more_than_the_peak(model, plan, n_more):
    model = model if model.n_kv_shared_layers else model.replace(n_layers=model.n_layers + n_more)
    most = max(held.total for held in memory_timeline(model, plan))
    rounded = 0 if model.mixer_pattern == ("attention",) else 2
    assert abs(peak_bytes(model, plan) - most) <= rounded


@settings(max_examples=30)
@given(models(rare=True) | hybrids(), plans, st.integers(0, 10**9))
def test_the_largest_micro_batch_fits_and_the_next_does_not(model, plan, spare_bytes):
    memory_bytes = peak_bytes(model, plan.replace(batch_size=1)) + spare_bytes
    largest = largest_micro_batch(model, plan, memory_bytes)
    assert peak_bytes(model, plan.replace(batch_size=largest)) <= memory_bytes
    assert peak_bytes(model, plan.replace(batch_size=largest + 1)) > memory_bytes


def test_a_memory_too_small_for_one_sequence_is_refused_with_what_it_takes():
    with pytest.raises(InputError, match=r"not even one sequence of 1024 tokens fits: it needs .* GiB"):
        largest_micro_batch(pb.model("gpt2"), step_of(1), 10**9)


@settings(max_examples=50)
@given(models(rare=True), plans)
def test_checkpointing_never_needs_more_where_there_are_layers_to_forget(model, plan):
    """But for the input of the first layer, which is kept to run it again, and for the masks of eager
    attention, which its backward pass does not need. Compiled, what is counted of the layer that runs again
    is an upper bound: where a layer keeps hardly more than its input, up to a twentieth above. (Of 4,000 such
    models the worst were 2.7 % above.)"""
    model = model.replace(n_layers=model.n_layers + 2)
    with_it, without = (
        peak_bytes(model, plan.replace(gradient_checkpointing=choice)) for choice in (True, False)
    )
    n_bytes = plan.backend.matmul_bytes
    first_input = plan.batch_size * model.context_length * model.dim * n_bytes
    eager_masks = prod(masks(model)) * n_bytes if uses_eager_attention(model) else 0
    assert with_it <= (1.05 * without if plan.backend.compiled else without + first_input + eager_masks)


@pytest.mark.parametrize("norm_weight", [True, False])
def test_what_a_cpu_takes_for_the_gradient_of_a_norm_is_what_is_planned(norm_weight):
    """Of a model that is nearly nothing but norms, up to its last single numbers."""
    model = SMALL.replace(
        dim=512, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=2, intermediate_size=1, vocab_size=2,
        context_length=64, norm_weight=norm_weight,
    )  # fmt: skip
    way = {"batch_size": 4, "optimizer": "adamw"}
    planned = training_memory(model, on_cpu(**way)).peak_bytes
    assert planned == pytest.approx(peak_of_an_update(model, **way), rel=1e-3)


@settings(max_examples=50)
@given(models(rare=True) | hybrids(), plans, st.integers(2, 64))
def test_sharding_divides_the_state_and_copying_adds_the_gradients(model, plan, world_size):
    plan = plan.replace(world_size=1, gradient_accumulation_steps=8 * world_size)
    alone, copied, shared = (
        training_memory(model, plan.replace(world_size=n, shard=shard)).parts
        for n, shard in ((1, False), (world_size, False), (world_size, True))
    )
    for part in ("weights", "optimizer"):
        assert copied[part] == alone[part]
        assert 0 <= world_size * shared[part] - alone[part] < world_size
    assert copied["communication"] == 4 * trained_parameters(model)
    assert shared["communication"] > 0
    assert alone["communication"] == 0


@settings(max_examples=30)
@given(models(rare=True) | hybrids(), plans)
def test_replicated_shards_take_what_fewer_processes_take_who_hold_one_copy(model, plan):
    """And so memory between that of whole copies and that of one copy for all."""
    plan = plan.replace(world_size=32, gradient_accumulation_steps=8 * 32, shard=True)
    within = training_memory(model, plan.replace(shard_degree=8))
    alone = training_memory(model, plan.replace(world_size=8, gradient_accumulation_steps=8 * 8))
    assert within.parts == alone.parts
    assert peak_bytes(model, plan) <= within.peak_bytes
    assert training_memory(model, plan.replace(shard_degree=32)).parts == training_memory(model, plan).parts


MIXED = {
    "n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 24, "n_first_dense": 1,
    "moe_pattern": ("dense", "experts"), "window": 4, "window_pattern": ("local", "local", "global"),
}  # fmt: skip


@pytest.mark.parametrize("changes", [{"tied": True}, {"tied": False}, MIXED], ids=["tied", "untied", "mixed"])
@settings(max_examples=30)
@given(plan=plans)
def test_an_array_of_models_holds_what_each_of_them_does(changes, plan):
    model = SMALL.replace(**changes)
    sizes = {
        "dim": [32, 64, 96, 32],
        "n_layers": [2, 5, 3, 2],
        "vocab_size": [50, 400, 64, 51],
        "intermediate_size": [9, 7, 300, 8],
    }
    whole = peak_bytes(with_sizes(model, **{name: np.array(each) for name, each in sizes.items()}), plan)
    each = [dict(zip(sizes, values, strict=True)) for values in zip(*sizes.values(), strict=True)]
    assert whole.tolist() == [peak_bytes(model.replace(**one), plan) for one in each]


@settings(max_examples=50)
@given(models(rare=True) | hybrids(), plans)
def test_the_parts_sum_to_the_peak_which_is_the_largest_phase(model, plan):
    memory = training_memory(model, plan)
    assert sum(memory.parts.values()) == memory.peak_bytes == peak_bytes(model, plan)
    assert {type(size) for size in (*memory.parts.values(), *memory.phases.values())} == {int}
    assert memory.peak_bytes == memory.phases[memory.peak_phase] == max(memory.phases.values())
    assert sum(row["bytes"] for row in memory.rows()) == 2 * memory.peak_bytes
    assert memory.as_dict() == {
        "peak_bytes": memory.peak_bytes, "peak_phase": memory.peak_phase,
        "parts": memory.parts, "phases": memory.phases,
    }  # fmt: skip


def test_a_gpu_holds_a_context_and_what_the_allocator_cannot_use():
    gpu, tensors_alone = (
        training_memory(SMALL, step_of(1, world_size=n, overhead=overhead))
        for n, overhead in ((1, None), (1, NO_OVERHEAD))
    )
    assert gpu.parts["overhead"] == 800 * 2**20 + tensors_alone.peak_bytes * 8 // 100
    several = training_memory(SMALL, step_of(1, world_size=2)).parts["overhead"]
    assert several > gpu.parts["overhead"] + 500 * 2**20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"world_size": 0}, "world_size is 0; it must be greater than or equal to 1"),
        ({"loss_chunks": -1}, "loss_chunks is -1; it must be greater than or equal to 1"),
        ({"shard": True}, "shard=True divides a model among processes, and world_size=1"),
    ],
)
def test_an_impossible_plan_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        step_of(1, gradient_accumulation_steps=1, **wrong)


@settings(max_examples=30, deadline=None)
@given(models(), st.integers(1, 3))
def test_a_model_that_writes_remembers_what_is_planned(model, batch_size):
    module, capacity = built(model), model.context_length
    with torch.no_grad(), kv_cache(module, capacity) as hidden:
        hidden(torch.zeros(batch_size, 1, dtype=torch.int64))
        kept = [each for layer in module.layers for each in cached_by(layer)]
        cache = sum(each.numel() * each.element_size() for each in kept)
    planned = inference_memory(model, batch_size, capacity, element_bytes=4)
    assert planned.cache_bytes == cache
    assert planned.weights_bytes == 4 * total(model)


def cached_by(layer: Block) -> Iterator[torch.Tensor]:
    """What a layer keeps from token to token. One that shares the keys of another keeps none."""
    if isinstance(layer.attention, CachedAttention):
        yield from layer.attention.cache
    if layer.has_indexer:
        yield layer.indexer.cache


def test_the_cache_of_a_grouped_model_is_as_published():
    # 2 * 8 heads * 128 * 32 layers * 2 bytes = 128 KiB per token.
    planned = inference_memory(pb.preset("llama-3-8b"), 4, 8192)
    assert planned.as_dict() == {
        "weights_bytes": 16_060_522_496, "cache_bytes": 4 * 2**30, "total_bytes": 16_060_522_496 + 4 * 2**30
    }  # fmt: skip
    assert "total" in repr(planned)
