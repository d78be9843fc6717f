import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from strategies import models
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from parambudget.arch.config import ModelConfig
from parambudget.build.module import Attention, Rotary, Transformer, rotate
from parambudget.cost.flops import flops_per_token
from parambudget.errors import InputError

# No deadline: the first forward pass of a process takes seconds.
some = settings(max_examples=40, deadline=None)

SMALL = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, intermediate_size=48,
    vocab_size=50, context_length=12,
)  # fmt: skip


def built(model: ModelConfig, seed: int = 0, device: str = "cpu") -> Transformer:
    module = Transformer(model, device=device)
    module.init_weights(torch.Generator().manual_seed(seed))
    return module


def random_tokens(model: ModelConfig, n_sequences: int = 2) -> torch.Tensor:
    shape = (n_sequences, model.context_length)
    return torch.randint(model.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def loss_of(module: Transformer, *, checkpoint: bool = False) -> torch.Tensor:
    tokens = random_tokens(module.model)
    logits = module.logits(module.hidden(tokens, checkpoint=checkpoint))
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())


def gradients(module: Transformer) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@some
@given(models())
def test_every_architecture_runs_forward(model):
    tokens = random_tokens(model)
    logits = built(model)(tokens)
    assert logits.shape == (*tokens.shape, model.vocab_size)
    assert logits.isfinite().all()


@some
@given(models())
def test_no_logit_depends_on_a_later_token(model):
    module, tokens = built(model.replace(init_std=0.5, zero_init_out=False)).double(), random_tokens(model)
    changed = tokens.clone()
    changed[:, -1] = (tokens[:, -1] + 1) % model.vocab_size
    torch.testing.assert_close(module(changed)[:, :-1], module(tokens)[:, :-1])


def test_a_logit_depends_on_earlier_tokens():
    module, tokens = built(SMALL), random_tokens(SMALL)
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % SMALL.vocab_size
    assert not torch.allclose(module(changed)[:, -1], module(tokens)[:, -1], atol=1e-4)


@some
@given(models())
def test_training_costs_the_flops_that_the_table_says(model):
    module, tokens = built(model), random_tokens(model)
    # On CPU torch counts only the math backend's attention; flash attention it counts as nothing.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(tokens).sum().backward()
    assert counter.get_total_flops() == flops_per_token(model, "full") * tokens.numel()


@some
@given(models())
def test_recomputing_blocks_changes_neither_loss_nor_gradients(model):
    kept, recomputed = built(model), built(model)
    losses = loss_of(kept), loss_of(recomputed, checkpoint=True)
    for loss in losses:
        loss.backward()
    assert losses[0] == losses[1]
    torch.testing.assert_close(gradients(recomputed), gradients(kept), rtol=0, atol=0)


@some
@given(models())
def test_every_tensor_takes_part_in_the_loss(model):
    module = built(model)
    loss_of(module).backward()
    assert all(gradient is not None for gradient in gradients(module).values())


@some
@given(models())
def test_every_architecture_trains_under_bf16_autocast(model):
    module = built(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(random_tokens(model))
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert all(gradient.isfinite().all() for gradient in gradients(module).values())


@pytest.mark.parametrize("norm_placement", ["pre", "post", "reordered", "sandwich"])
def test_bf16_autocast_gives_nearly_the_same_logits(norm_placement):
    module, tokens = built(SMALL.replace(norm_placement=norm_placement, init_std=0.1)), random_tokens(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(tokens)
    # bf16 keeps 8 bits, and the logits here are up to 2.
    torch.testing.assert_close(logits.float(), module(tokens), rtol=0, atol=0.05)


@some
@given(models())
def test_a_model_filled_after_the_meta_device_is_the_same_model(model):
    from_meta = Transformer(model, device="meta").to_empty(device="cpu")
    from_meta.init_weights(torch.Generator().manual_seed(0))
    tokens = random_tokens(model)
    assert torch.equal(from_meta(tokens), built(model)(tokens))


def test_a_tied_head_is_still_the_embedding_after_the_meta_device():
    module = Transformer(SMALL, device="meta").to_empty(device="cpu")
    assert module.lm_head.weight is module.embed.weight


def test_a_tied_embedding_gets_gradient_in_rows_that_were_never_looked_up():
    module = built(SMALL)
    module(torch.zeros(1, 4, dtype=torch.long)).logsumexp(-1).sum().backward()
    assert (module.embed.weight.grad[1:].abs().sum(1) > 0).all()


def test_an_untied_embedding_gets_gradient_only_in_rows_that_were_looked_up():
    module = built(SMALL.replace(tied=False))
    module(torch.zeros(1, 4, dtype=torch.long)).logsumexp(-1).sum().backward()
    assert (module.embed.weight.grad[1:] == 0).all()


@pytest.mark.parametrize("qk_norm", ["none", "head", "per_head"])
def test_grouped_queries_are_multi_head_with_repeated_key_value_weights(qk_norm):
    grouped = SMALL.replace(qk_norm=qk_norm)
    module, multi_head = built(grouped), built(grouped.replace(n_kv_heads=grouped.n_heads))
    weights = module.state_dict()
    for name, weight in weights.items():
        if weight.shape != multi_head.state_dict()[name].shape:
            heads = weight.unflatten(0, (grouped.n_kv_heads, -1)).repeat_interleave(grouped.kv_group, 0)
            weights[name] = heads.reshape(multi_head.state_dict()[name].shape)
    multi_head.load_state_dict(weights)
    tokens = random_tokens(grouped)
    torch.testing.assert_close(multi_head(tokens), module(tokens))


@pytest.mark.parametrize("rotary_fraction", [1.0, 0.25])
def test_rotary_scores_depend_on_the_distance_alone(rotary_fraction):
    model = SMALL.replace(rotary_fraction=rotary_fraction)
    query, key = torch.randn(2, 1, 1, 1, model.head_dim, generator=torch.Generator().manual_seed(0)).double()
    rotation = Rotary(model)(model.context_length)
    n_tokens = model.context_length
    queries = rotate(query.expand(1, n_tokens, 1, -1), rotation)[0, :, 0]
    keys = rotate(key.expand(1, n_tokens, 1, -1), rotation)[0, :, 0]
    scores = queries @ keys.T
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=0, atol=1e-5)


def test_rotary_leaves_the_rest_of_the_head_alone():
    model = SMALL.replace(rotary_fraction=0.25)
    heads = torch.randn(1, 12, 4, 16)
    turned = rotate(heads, Rotary(model)(12))
    assert torch.equal(turned[..., 4:], heads[..., 4:])


def test_rotary_tables_stay_float32_in_a_bf16_model():
    assert torch.equal(Transformer(SMALL, dtype=torch.bfloat16).rotary.cos, Rotary(SMALL).cos)


def test_rotary_tables_are_not_saved():
    assert not [name for name in Transformer(SMALL).state_dict() if "rotary" in name]


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_a_sequence_longer_than_the_context_is_refused(position):
    with pytest.raises(InputError, match="13 tokens are longer than context_length=12"):
        Transformer(SMALL.replace(position=position))(torch.zeros(1, 13, dtype=torch.long))


def test_without_positions_any_length_runs():
    assert Transformer(SMALL.replace(position="none"))(torch.zeros(1, 13, dtype=torch.long)).shape[1] == 13


def test_a_shorter_sequence_gets_the_logits_of_its_prefix():
    module, tokens = built(SMALL), random_tokens(SMALL)
    torch.testing.assert_close(module(tokens[:, :7]), module(tokens)[:, :7])


def test_logits_stay_below_the_soft_cap():
    module = built(SMALL.replace(logit_softcap=2.0, init_std=5.0))
    assert module(random_tokens(SMALL)).abs().max() <= 2


def test_the_same_seed_gives_the_same_weights():
    torch.testing.assert_close(built(SMALL).state_dict(), built(SMALL).state_dict(), rtol=0, atol=0)


def test_another_seed_gives_other_weights():
    assert not torch.equal(built(SMALL).embed.weight, built(SMALL, seed=1).embed.weight)


def test_initialisation_leaves_the_global_random_state_alone():
    module, before = Transformer(SMALL), torch.get_rng_state()
    module.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("embed", 0.1),
        ("layers.0.attention.q", 0.1),
        ("layers.0.ffn.up", 0.1),
        ("layers.1.attention.out", 0.05),
        ("layers.1.ffn.down", 0.05),
        ("lm_head", 0.1),
    ],
)
def test_weights_start_with_the_spread_of_the_config(name, std):
    wide = SMALL.replace(dim=128, intermediate_size=256, vocab_size=200, init_std=0.1, tied=False)
    # 8192 values at the least: their spread is within 5 % of the true one in more than 6 standard errors.
    assert built(wide).get_submodule(name).weight.std().item() == pytest.approx(std, rel=0.05)


def test_biases_start_at_zero_and_norms_at_one():
    biased = SMALL.replace(norm="layernorm", norm_bias=True, qkv_bias=True, ffn_bias=True, head_bias=True)
    module = built(biased)
    parameters = dict(module.named_parameters())
    assert all((p == 0).all() for name, p in parameters.items() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in parameters.items() if name.endswith("norm.weight"))


def test_zero_initialised_outputs_make_every_block_the_identity():
    module, tokens = built(SMALL.replace(zero_init_out=True)), random_tokens(SMALL)
    assert torch.equal(module.hidden(tokens), module.norm(module.embed(tokens)))


def test_the_head_norm_of_one_scale_is_the_per_head_norm_of_equal_scales():
    shared, own = built(SMALL.replace(qk_norm="head")), built(SMALL.replace(qk_norm="per_head"))
    for layer, of_own in zip(shared.layers, own.layers, strict=True):
        for norm in ("q_norm", "k_norm"):
            scale = torch.rand(SMALL.head_dim)
            layer.attention.get_submodule(norm).weight.data = scale
            weight = of_own.attention.get_submodule(norm).weight
            weight.data = scale.expand(weight.shape)
    tokens = random_tokens(SMALL)
    torch.testing.assert_close(own(tokens), shared(tokens))


def test_under_autocast_the_projections_of_a_branch_keep_one_copy_of_their_input():
    saved = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16 and tensor.numel() == 2 * 12 * SMALL.dim:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    # One key/value head less than makes keys and values as large as the input.
    block = built(SMALL.replace(n_kv_heads=1)).layers[0]
    x_BTD = torch.randn(2, 12, SMALL.dim, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        block(x_BTD, Rotary(SMALL)(12))
    assert len(saved) == 2, "one for q, k and v, one for gate and up"


def test_the_module_compiles_without_a_graph_break():
    torch.compiler.reset()
    module, tokens = built(SMALL), random_tokens(SMALL)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(tokens), module(tokens))


def test_shapes_can_be_propagated_without_numbers():
    logits = Transformer(SMALL, device="meta")(torch.zeros(2, 12, dtype=torch.long, device="meta"))
    assert logits.shape == (2, 12, 50)


def test_the_default_scale_of_scores_is_one_over_the_root_of_head_dim():
    x_BTD, plain = torch.randn(1, 12, SMALL.dim), Attention(SMALL)
    scaled = Attention(SMALL.replace(attention_multiplier=SMALL.head_dim**-0.5))
    scaled.load_state_dict(plain.state_dict())
    torch.testing.assert_close(scaled(x_BTD, None), plain(x_BTD, None))
