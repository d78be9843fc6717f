"""The price of a shape: nothing for the usual one, more for wider than for deeper ones, and only a rank."""

from dataclasses import replace

import numpy as np
import pytest
from support.finished_ladder import write_finished_ladder

import parambudget as pb
from parambudget.ladders.ladder import Ladder
from parambudget.planning.shape_price import DEEP_PRICE, WIDE_PRICE, ranked_loss, shape_worth
from parambudget.scaling.loss import DEFAULT_LAW, expected_loss, law_parameters
from parambudget.search.score import usual_aspect


def body_of(n_layers: int, dim: int) -> float:
    return float(pb.count(model(n_layers, dim)).body)


def model(n_layers: int, dim: int, vocab_size: int = 32_000) -> pb.ModelConfig:
    return pb.model(
        n_layers=n_layers, dim=dim, n_heads=dim // 64, intermediate_size=4 * dim, vocab_size=vocab_size
    )


@pytest.mark.parametrize(("n_layers", "dim", "price"), [(4, 1024, WIDE_PRICE), (64, 512, DEEP_PRICE)])
def test_a_shape_is_worth_less_by_the_square_of_the_logarithm(n_layers: int, dim: int, price: float):
    shape = model(n_layers, dim)
    strayed = np.log(dim / n_layers / usual_aspect(body_of(n_layers, dim)))
    assert (strayed > 0) == (price == WIDE_PRICE)
    # The same share of embeddings in a body of the usual shape: what is left is the aspect's.
    whole = pb.count(shape)
    share, counted = 1 - whole.body / whole.total, float(law_parameters(shape))
    usual_share = 32_000 * 0.640 * counted**0.382 / counted
    of_embedding = (1 - 0.3 * share) / (1 - 0.3 * usual_share)
    assert shape_worth(shape) == pytest.approx(np.exp(-price * strayed**2) * of_embedding)


def test_an_embedding_is_worth_less_than_the_body():
    small, large = (shape_worth(model(12, 768, vocab_size)) for vocab_size in (8_192, 131_072))
    assert large < 0.9 * small


def test_kaplans_pair_is_within_their_three_percent():
    """6 layers of 4288 and 48 of 1600, of 1.5B parameters outside embeddings."""
    wide, deep = (pb.model(n_layers=n, dim=d, n_heads=d // 64, intermediate_size=4 * d, gated=False)
                  for n, d in ((6, 4288), (48, 1600)))  # fmt: skip
    losses = []
    for shape in (wide, deep):
        strayed = np.log(shape.dim / shape.n_layers / usual_aspect(float(pb.count(shape).body)))
        worth = np.exp(-(WIDE_PRICE if strayed > 0 else DEEP_PRICE) * strayed**2)
        losses.append(DEFAULT_LAW.A / (1.5e9 * worth) ** DEFAULT_LAW.alpha + 2.2)
    assert 0.01 < losses[0] / losses[1] - 1 < 0.03


def test_experts_are_held_against_what_is_usual_among_them():
    shape = pb.preset("mixtral-8x7b-v0.1")
    assert 0.9 < shape_worth(shape) < 1.05


def test_a_rank_is_the_loss_of_the_parameters_that_a_shape_is_worth():
    shape = model(4, 1024)
    less = expected_loss(DEFAULT_LAW, law_parameters(shape) * shape_worth(shape), 1e9)
    assert ranked_loss(shape, DEFAULT_LAW, 1e9, None) == less
    assert less > expected_loss(DEFAULT_LAW, law_parameters(shape), 1e9)


def test_under_a_fitted_law_the_usual_share_of_the_embedding_is_that_of_its_vocabulary(tmp_path):
    law = Ladder(write_finished_ladder(tmp_path / "ladder")).fit().law
    shape = model(4, 1024, vocab_size=law.fit.vocab_size)
    usual = shape_worth(shape, law) / shape_worth(shape)
    counted = float(law_parameters(shape))
    shares = [vocabulary * 0.640 * counted**0.382 / counted for vocabulary in (32_000, law.fit.vocab_size)]
    assert usual == pytest.approx((1 - 0.3 * shares[0]) / (1 - 0.3 * shares[1]))
    assert ranked_loss(shape, law, 1e9, None) > ranked_loss(shape, replace(law, fit=None), 1e9, None)
