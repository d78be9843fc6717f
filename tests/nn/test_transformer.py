import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from support.strategies import models
from support.tiny_model import SMALL, built, random_tokens

from parambudget.nn.norms import Norm
from parambudget.nn.rotary import Rotary
from parambudget.nn.transformer import Transformer

# No deadline: the first forward pass of a process takes seconds.
some = settings(max_examples=30, deadline=None)


def loss_of(module: Transformer, *, checkpoint: bool = False) -> torch.Tensor:
    tokens = random_tokens(module.model)
    logits = module.logits(module.hidden_states(tokens, gradient_checkpointing=checkpoint))
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())


def gradients(module: Transformer) -> dict[str, torch.Tensor]:
    trained = ((name, each) for name, each in module.named_parameters() if each.requires_grad)
    return {name: parameter.grad for name, parameter in trained}


@some
@given(models())
def test_every_architecture_runs_forward(model):
    tokens = random_tokens(model)
    logits = built(model)(tokens)
    assert logits.shape == (*tokens.shape, model.vocab_size)
    assert logits.isfinite().all()


@some
@given(models())
def test_every_architecture_runs_with_bf16_weights(model):
    logits = Transformer(model, dtype=torch.bfloat16)(random_tokens(model))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@some
@given(models())
@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_residual_stream_is_in_the_precision_of_matmuls_from_the_embedding_on(bf16, dtype, model):
    module, seen = built(model), []
    for layer in module.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0].dtype, output[0].dtype)))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        module.hidden_states(random_tokens(model))
    assert {*seen} == {dtype}


def test_a_norm_computes_in_float32_under_autocast():
    """In bfloat16 the mean square of 1 and 2**-4 would lose the small term: 8 bits."""
    norm = Norm(SMALL, SMALL.dim)
    x = torch.full((SMALL.dim,), 2.0**-4)
    x[0] = 1.0
    with torch.autocast("cpu", torch.bfloat16):
        normed = norm(x.bfloat16())
    assert normed.dtype == torch.bfloat16
    torch.testing.assert_close(normed, norm(x).bfloat16(), rtol=0, atol=0)


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
def test_recomputing_blocks_changes_neither_loss_nor_gradients(model):
    kept, recomputed = built(model), built(model)
    losses = loss_of(kept), loss_of(recomputed, checkpoint=True)
    for loss in losses:
        loss.backward()
    assert losses[0] == losses[1]
    torch.testing.assert_close(gradients(recomputed), gradients(kept), rtol=0, atol=0)


def test_a_recomputed_block_runs_again_in_the_backward_pass():
    module, calls = built(SMALL), []
    module.layers[1].register_forward_pre_hook(lambda *_: calls.append("forward"))
    loss = loss_of(module, checkpoint=True)
    calls.append("backward")
    loss.backward()
    assert calls == ["forward", "backward", "forward"]


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


def test_logits_stay_below_the_soft_cap():
    module = built(SMALL.replace(logit_softcap=2.0, init_std=5.0))
    assert module(random_tokens(SMALL)).abs().max() <= 2


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


def test_under_autocast_the_head_gets_its_input_in_bf16():
    with torch.autocast("cpu", torch.bfloat16):
        assert built(SMALL).hidden_states(random_tokens(SMALL)).dtype == torch.bfloat16


def test_the_module_compiles_without_a_graph_break():
    torch.compiler.reset()
    module, tokens = built(SMALL), random_tokens(SMALL)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(tokens), module(tokens))


def test_shapes_can_be_propagated_without_numbers():
    logits = Transformer(SMALL, device="meta")(torch.zeros(2, 12, dtype=torch.long, device="meta"))
    assert logits.shape == (2, 12, 50)
