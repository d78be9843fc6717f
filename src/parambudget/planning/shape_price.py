"""What a shape costs: of a model's parameters, the share that a model of the usual shape needs to be as good.

    worth = exp(-ASPECT_PRICE ln(aspect / usual)^2) (1 - (1 - EMBEDDING_WORTH) s) / (1 - (1 - EMBEDDING_WORTH) s0)

aspect is dim / n_layers and usual that of published models of the size (`search.score`); s is the share of the
embedding in the parameters that the laws count, and s0 what it was in the runs that they were fitted to. A law
counts every parameter alike, so at a fixed count it sees neither.

Both constants are fitted (`benchmarks/shape_price.py`) to the losses that McLeish et al. 2025 (Gemstones, arXiv
2502.06857) publish in their repository, mcleish7/gemstone-scaling-laws: 20 models of 48M to 2B parameters with
dim / n_layers from 3 to 320, each at 11B to 110B tokens, its learning rate decayed. Four such sets agree: 0.042
to 0.054 and 0.25 to 0.30, and the aspect that is best at a given body is 0.96 to 1.13 times the usual. Evidence
is thin above 2B, and a fit can trade the second constant for a deeper optimum. Kaplan et al. 2020 (arXiv
2001.08361, figure 5) fits in: of 1.5B parameters, 6 layers of 4288 end within 3 % of 48 of 1600; by this they
are 1 % apart. It ranks shapes, and predicts nothing.
"""

from typing import Final

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.tensors import tensors
from parambudget.cost.params import active_body, body
from parambudget.scaling.loss import LossLaw, expected_loss, law_parameters
from parambudget.search.score import usual_aspect, usual_expert_aspect
from parambudget.search.space import WIDTH_FIT

ASPECT_PRICE: Final = 0.05
"""ln of parameters per squared ln of dim / n_layers over the usual: a factor of 2 is worth 2.4 % of them."""
EMBEDDING_WORTH: Final = 0.3
"""A parameter of the embedding, in those of the body."""
LAW_VOCABULARY: Final = 32_000
"""Of the runs behind the default law."""
_LARGEST_SHARE: Final = 0.6
"""Of an embedding, among those runs: smaller models than theirs have no usual shape."""


def shape_worth(m: Dims) -> Size:
    """The share of a model's parameters that one of the usual shape needs to be as good; arrays where the
    sizes are. Above 1 where its embedding is smaller than in the runs behind the laws."""
    counted = np.asarray(law_parameters(m), dtype=np.float64)
    if m.moe is None:
        usual = usual_aspect(np.asarray(body(m), dtype=np.float64))
    else:
        usual = usual_expert_aspect(np.asarray(active_body(m), dtype=np.float64))
    strayed = np.log(m.dim / m.n_layers / usual)
    embedding = sum(row.elements for row in tensors(m) if row.role == "lookup") / counted
    factor, power = WIDTH_FIT
    expected = np.minimum(LAW_VOCABULARY * factor * counted ** (power - 1), _LARGEST_SHARE)
    discount = 1 - EMBEDDING_WORTH
    return np.exp(-ASPECT_PRICE * strayed**2) * (1 - discount * embedding) / (1 - discount * expected)


def ranked_loss(m: Dims, law: LossLaw, tokens: Size, unique_tokens: int | None) -> Size:
    """The loss expected of a model of the usual shape that is as good: what shapes are ranked by."""
    return expected_loss(law, law_parameters(m) * shape_worth(m), tokens, unique_tokens)
