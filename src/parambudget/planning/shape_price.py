"""What a shape costs: of a model's parameters, the share that a model of the usual shape needs to be as good.

    worth = exp(-price ln(aspect / usual)^2) (1 - (1 - EMBEDDING_WORTH) s) / (1 - (1 - EMBEDDING_WORTH) s0)

aspect is dim / n_layers (`search.score.aspect`) and usual that of published models of the size; the price of
a shape that is wider than usual is another than that of a deeper one. s is the share of the embedding in the
parameters that the laws count, and s0 what it was in the runs that they were fitted to: of a law of one's own
runs, that of a usual model with their vocabulary. A law counts every parameter alike, so at a fixed count it
sees neither.

The constants are fitted (`benchmarks/shape_price.py`) to the losses that McLeish et al. 2025 (Gemstones,
arXiv 2502.06857) publish in their repository, mcleish7/gemstone-scaling-laws: 20 models of 48M to 2B
parameters with dim / n_layers from 3 to 320, each at 11B to 110B tokens. Four sets of their runs give 0.08 to
0.14 for wider, 0.031 to 0.037 for deeper and 0.5 to 0.8 for the embedding. That is thin: few shapes are
between the extremes, without the one of 3 layers the fit says 0.18, 0.045 and 0.25, and above 2B there is
none. The only other figure fits in, that of Kaplan et al. 2020 (arXiv 2001.08361, figure 5): of 1.5B
parameters, 6 layers of 4288 end within 3 % of 48 of 1600; by this within 2.3 %. It ranks shapes, and predicts
nothing.
"""

from typing import Final

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.tensors import tensors
from parambudget.cost.params import active_body, body
from parambudget.scaling.loss import DEFAULT_LAW, LossLaw, expected_loss, law_parameters
from parambudget.search.score import aspect, usual_aspect, usual_expert_aspect
from parambudget.search.space import WIDTH_FIT

WIDE_PRICE: Final = 0.11
"""ln of parameters per squared ln of dim / n_layers over the usual: a factor of 2 costs 5 % of them."""
DEEP_PRICE: Final = 0.035
"""The same under the usual."""
EMBEDDING_WORTH: Final = 0.7
"""A parameter of the embedding, in those of the body."""
LAW_VOCABULARY: Final = 32_000
"""Of the runs behind the default law; a law of one's own runs has theirs."""
_LARGEST_SHARE: Final = 0.6
"""Of an embedding, among those runs: smaller models than theirs have no usual shape."""


def shape_worth(m: Dims, law: LossLaw = DEFAULT_LAW) -> Size:
    """The share of a model's parameters that one of the usual shape needs to be as good; arrays where the
    sizes are. Above 1 where its embedding is smaller than in the runs behind the law."""
    counted = np.asarray(law_parameters(m), dtype=np.float64)
    if m.moe is None:
        usual = usual_aspect(np.asarray(body(m), dtype=np.float64))
    else:
        usual = usual_expert_aspect(np.asarray(active_body(m), dtype=np.float64))
    strayed = np.log(aspect(m, m.dim, m.n_layers) / usual)
    embedding = sum(row.elements for row in tensors(m) if row.role == "lookup") / counted
    factor, power = WIDTH_FIT
    vocabulary = LAW_VOCABULARY if law.fit is None else law.fit.vocab_size
    expected = np.minimum(vocabulary * factor * counted ** (power - 1), _LARGEST_SHARE)
    discount = 1 - EMBEDDING_WORTH
    price = np.where(strayed > 0, WIDE_PRICE, DEEP_PRICE)
    return np.exp(-price * strayed**2) * (1 - discount * embedding) / (1 - discount * expected)


def as_good_parameters(m: Dims, law: LossLaw = DEFAULT_LAW) -> Size:
    """Parameters of a model of the usual shape that is as good."""
    return law_parameters(m) * shape_worth(m, law)


def ranked_loss(m: Dims, law: LossLaw, tokens: Size, unique_tokens: int | None) -> Size:
    """The loss expected of a model of the usual shape that is as good: what shapes are ranked by."""
    return expected_loss(law, as_good_parameters(m, law), tokens, unique_tokens)
