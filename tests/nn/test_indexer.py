"""Sparse attention with an indexer: what it chooses, costs, caches and learns, and that it is its class's."""

from itertools import pairwise

import pytest
import torch
import transformers
from support.tiny_model import built, random_tokens

import parambudget as pb
from parambudget.arch.layers import attention_kinds
from parambudget.cost.flops import attention_flops_per_token, flops_per_token, indexer_parameters
from parambudget.cost.memory.state import inference_memory
from parambudget.errors import ConfigError
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.weights import load_pretrained, save_pretrained
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.transformer import Transformer
from parambudget.nn.verify import verify
from parambudget.training.optimization.optimizer import group_parameters

LENGTH = 24
SPARSE = pb.model(
    dim=32, n_layers=4, n_heads=4, kv_lora_rank=10, q_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=4,
    v_head_dim=5, intermediate_size=48, vocab_size=50, context_length=LENGTH, n_index_heads=16,
    index_head_dim=8, index_top_k=5, indexer_pattern=("own", "shared", "shared"),
)  # fmt: skip


def large_weights(module: torch.nn.Module) -> torch.nn.Module:
    """Random ones, so that no choice hides behind a small difference."""
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        tensor.normal_(0, 0.3, generator=generator)
    return module


def chosen_by(module: Transformer, tokens: torch.Tensor, layer: int) -> torch.Tensor:
    """Which keys the attention of a layer is left with, (B, T, S)."""
    masks = []
    hook = module.layers[layer].attention.register_forward_pre_hook(lambda _, inputs: masks.append(inputs[2]))
    with torch.no_grad():
        module(tokens)
    hook.remove()
    return masks[0][:, 0] == 0


def test_every_query_is_left_with_as_many_keys_as_are_chosen_or_with_all_before_it():
    module, tokens = large_weights(Transformer(SPARSE)), random_tokens(SPARSE)
    kept = chosen_by(module, tokens, 0)
    assert kept.sum(-1).tolist() == [[min(at + 1, 5) for at in range(LENGTH)]] * 2
    assert not kept.triu(1).any()


def test_layers_without_an_indexer_have_the_keys_of_the_last_one_before_them():
    module, tokens = large_weights(Transformer(SPARSE)), random_tokens(SPARSE)
    kept = [chosen_by(module, tokens, layer) for layer in range(4)]
    assert [torch.equal(*pair) for pair in pairwise(kept)] == [True, True, False]
    assert [hasattr(layer, "indexer") for layer in module.layers] == [True, False, False, True]


def test_the_best_keys_are_those_with_the_greatest_weighted_sum_over_heads():
    """The scores of the definition, pair by pair and head by head."""
    module, tokens = large_weights(Transformer(SPARSE.replace(position="none"))), random_tokens(SPARSE)
    layer = module.layers[0]
    x = layer.attention_norm(module.embed(tokens))
    q = layer.indexer.q(layer.attention.query_latent(x)).unflatten(-1, (16, 8))
    k, weights = layer.indexer.k_norm(layer.indexer.k(x)), layer.indexer.head_weights(x)
    kept = chosen_by(module, tokens, 0)
    for query in (7, LENGTH - 1):
        scores = torch.stack(
            [(weights[0, query] * (q[0, query] @ k[0, key]).relu()).sum() for key in range(query + 1)]
        )
        best = scores.topk(5).indices.sort().values
        assert torch.equal(kept[0, query].nonzero().squeeze(1), best)


@pytest.mark.parametrize("length", [5, 6, LENGTH])
def test_up_to_as_many_tokens_as_are_chosen_attention_is_dense(length: int):
    sparse = large_weights(Transformer(SPARSE))
    dense = Transformer(SPARSE.replace(indexer=None))
    dense.load_state_dict(sparse.state_dict(), strict=False)
    tokens = random_tokens(SPARSE)[:, :length]
    assert torch.equal(sparse(tokens), dense(tokens)) == (length == 5)


@pytest.mark.parametrize("pieces", [(LENGTH,), (3, 1, 1, 1, 10, 8), (1,) * LENGTH])
def test_what_is_generated_piece_by_piece_is_the_whole(pieces: tuple[int, ...]):
    module, tokens = built(SPARSE.replace(init_std=0.3)), random_tokens(SPARSE)
    with torch.no_grad(), kv_cache(module, LENGTH) as hidden:
        found = torch.cat([hidden(part) for part in tokens.split(pieces, dim=1)], dim=1)
        cached = [layer.indexer.cache for layer in module.layers if layer.has_indexer]
    torch.testing.assert_close(found, module.hidden_states(tokens).detach())
    of_layers = sum(each[0, 0].numel() for each in cached)
    (row,) = (row for row in attention_kinds(SPARSE) if row.name == "indexer")
    assert of_layers == row.copies * row.cached == 2 * 8


def test_the_indexers_keys_are_cached_beside_the_latents():
    latents, keys = 4 * (10 + 4), 2 * 8
    assert inference_memory(SPARSE, 3, 100).cache_bytes == 3 * 100 * 2 * (latents + keys)


def test_masked_documents_and_chosen_keys_go_together():
    module, tokens = large_weights(Transformer(SPARSE)), random_tokens(SPARSE)
    second = 10
    documents = (torch.arange(LENGTH) >= second).int().expand(2, -1)
    both = module.hidden_states(tokens, documents_BT=documents)
    torch.testing.assert_close(both[:, :second], module.hidden_states(tokens[:, :second]))


class TestFlops:
    """Of each convention by enumeration; the module's own are held against torch's counter in test_flops."""

    @pytest.mark.parametrize("convention", ["full", "causal"])
    def test_pairs_are_counted_one_by_one(self, convention: str):
        # full: as many queries as tokens, each with all that are counted for it; causal: up to its own
        in_full = convention == "full"
        scored = sum(LENGTH if in_full else at + 1 for at in range(LENGTH))
        attended = sum(5 if in_full else min(at + 1, 5) for at in range(LENGTH))
        heads, of_indexer = 4 * 4 * (6 + 4 + 5), 2 * 16 * (8 + 1)
        expected = (3 * 2 * attended * heads + 2 * scored * of_indexer) / LENGTH
        assert attention_flops_per_token(SPARSE, convention) == pytest.approx(expected, rel=1e-12)

    def test_where_nothing_is_chosen_the_indexer_costs_nothing(self):
        all_kept, dense = SPARSE.replace(index_top_k=LENGTH), SPARSE.replace(indexer=None)
        assert flops_per_token(all_kept) == flops_per_token(dense)
        assert indexer_parameters(SPARSE) == 2 * (16 * 8 * 12 + 8 * 32 + 16 * 32)


def test_the_formula_has_the_sizes_of_the_indexer():
    found = pb.formula(SPARSE)
    assert found.evaluate() == pb.count(SPARSE).total
    assert {"n_index_heads", "index_head_dim", "n_indexed_layers"} <= set(found.legend.values())


@pytest.mark.parametrize("name", ["deepseek-v3.2", "glm-5"])
def test_a_published_model_is_built_as_counted(name: str):
    assert verify(pb.preset(name).replace(fused_experts=True)).differences == ()


def test_a_search_around_glm_5_keeps_its_indexer():
    found = pb.solve(
        target=2_000_000_000, like="glm-5", n_experts=16, n_experts_per_token=2, vocab_size=32000
    )
    model = found[0].model
    assert model.indexer == pb.preset("glm-5").indexer
    assert abs(pb.count(model).total - 2_000_000_000) < 10_000_000
    assert verify(model).total == pb.count(model).total


def test_a_search_counts_layers_that_share_a_choice():
    fields = dict(SPARSE) | {name: None for name in ("n_layers", "dim", "n_heads", "head_dim", "n_kv_heads")}
    fields |= {"intermediate_size": None, "norm_bias": None}
    given = {name: value for name, value in fields.items() if value is not None}
    found = pb.solve(target=600_000, **given, n_layers="3:9", dim="32:64:16", rank="closest")
    for solution in found:
        assert pb.count(solution.model).total - 600_000 == solution.error


def test_a_trainer_leaves_the_indexer_as_it_is_and_trains_everything_else():
    module, tokens = built(SPARSE), random_tokens(SPARSE)
    groups = group_parameters(module, SPARSE)
    trained = [*groups.matrices, *groups.embeddings, *groups.head, *groups.scalars]
    before = {name: one.detach().clone() for name, one in module.named_parameters()}
    optimizer, losses = torch.optim.AdamW(trained, lr=0.01), []
    for _ in range(5):
        logits = module(tokens)[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    unchanged = {name for name, one in module.named_parameters() if torch.equal(one, before[name])}
    assert unchanged == {name for name in before if ".indexer." in name}
    assert sum(map(torch.Tensor.numel, trained)) == sum(
        row.parameters for row in pb.count(SPARSE).tensors if row.trained
    )


def test_weights_go_to_the_class_and_back(tmp_path):
    model = SPARSE.replace(
        n_experts=4, n_experts_per_token=2, n_shared_experts=1, n_first_dense=1, router_scores="sigmoid",
        correction_bias=True, fused_experts=True, rotary_interleaved=True, index_rotary_interleaved=True,
        norm_eps=1e-6, tied=False, qk_rope_head_dim=8, head_dim=14, expert_intermediate_size=8,
    )  # fmt: skip
    module, tokens = large_weights(Transformer(model)).eval(), random_tokens(model)
    export = to_hf(model)
    assert export.name == "glm_moe_dsa"
    save_pretrained(module, export.document, tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    back = load_pretrained(tmp_path / "model")
    for length in (4, LENGTH):  # fewer tokens than are chosen, and more
        with torch.no_grad():
            expected = theirs(tokens[:, :length]).logits
            torch.testing.assert_close(module(tokens[:, :length]), expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(back(tokens[:, :length]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"indexer_pattern": ("shared", "own")}, "indexer_pattern=shared,own lets the first layer share "),
        ({"index_head_dim": 2}, "index_head_dim=2 is less than the 4 elements that are rotated in each "),
        ({"window": 8}, "window=8 is not defined beside an indexer, which chooses the keys; leave "),
        ({"position": "alibi"}, "position='alibi' is not defined beside an indexer; use 'rotary' or "),
        ({"mla": None, "head_dim": 8}, "index_top_k chooses the keys of latent attention, and this "),
        ({"index_top_k": 0}, "index_top_k is 0; it must be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(fields: dict[str, object], says: str):
    with pytest.raises(ConfigError) as caught:
        SPARSE.replace(**fields)
    assert str(caught.value).startswith(says)
