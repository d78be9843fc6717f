"""Sixty budgets: what `solve` answers is no absurd shape, grows with the budget, is what `plan` says of the
same model, adds up, and warns where a law ends."""

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from math import log

import numpy as np
import pytest

import parambudget as pb
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import active_body, body
from parambudget.cost.speed.throughput import TIME_OVERHEAD
from parambudget.planning.machine import USABLE_SHARE
from parambudget.scaling.hyperparameters import update_sizes, update_tokens
from parambudget.scaling.loss import DEFAULT_LAW, FREE_EPOCHS, law_parameters
from parambudget.search.score import usual_aspect, usual_expert_aspect


@dataclass(frozen=True)
class Asked:
    """One search, and what it is made of."""

    hours: float | None = None
    dollars: float | None = None
    flops: float | None = None
    memory: str | None = None
    gpu: str | None = None
    gpus: int = 1
    price: float | None = None
    unique_tokens: int | None = None
    target: str | None = None
    axes: tuple[tuple[str, object], ...] = field(default=())

    @property
    def machine(self) -> pb.Machine | None:
        if self.gpu is None:
            return None
        return pb.machine(self.gpu, gpus=self.gpus, dollars_per_hour=self.price)

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value not in (None, 1, ())}
        return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                        for name, value in given.items())  # fmt: skip


HALF_DECADES = [10.0 ** (power / 2) for power in range(30, 55)]
FLOPS = [Asked(flops=flops) for flops in HALF_DECADES]
HOURS = [Asked(hours=hours, gpu="h100", price=2.5) for hours in (0.001, 0.01, 0.1, 0.5, 1.5, 10, 100, 1000)]
GPUS = [
    Asked(hours=24.0, gpu="h100", gpus=gpus, price=2, axes=(("dim", "1024:4096:512"),))
    for gpus in (1, 8, 64, 512)
]
SHORT = [
    Asked(hours=3.0, gpu="h100", gpus=gpus, price=2, axes=(("dim", "1024:4096:512"),))
    for gpus in (8, 64, 512)
]
DOLLARS = [Asked(dollars=dollars, gpu="a100") for dollars in (1, 10, 100, 10_000)]
MEMORY = [Asked(hours=2.0, gpu="h100", memory=memory) for memory in ("6GB", "12GB", "24GB")]
SIZES_OF_MEMORY = [Asked(memory=memory) for memory in ("2GB", "8GB", "32GB")]
OTHERS = [
    Asked(hours=0.1, gpu="4090"), Asked(hours=3.0, gpu="4090", gpus=2), Asked(hours=0.2, gpu="b200"),
    Asked(hours=1.0, gpu="l40s", unique_tokens=10**8), Asked(hours=1e5, gpu="h100"),
    Asked(flops=1e19, unique_tokens=10**9), Asked(flops=1e18, gpu="h100"),
    Asked(flops=3e19, gpu="a100", gpus=4, axes=(("dim", "768:1536:256"),)),
    Asked(flops=1e16, gpu="4090"), Asked(hours=1.5, gpu="h100", target="350M"),
    Asked(hours=1.5, gpu="h100", gpus=8, target="1B", unique_tokens=10**9),
]  # fmt: skip
EXPERTS = [
    Asked(flops=1e19, axes=(("n_experts", 8), ("n_experts_per_token", 2))),
    Asked(
        hours=1.0, gpu="h100",
        axes=(("n_experts", 8), ("n_experts_per_token", 2), ("dim", "512:1024:256")),
    ),
]  # fmt: skip
EVERY = [*FLOPS, *HOURS, *GPUS, *SHORT, *DOLLARS, *MEMORY, *SIZES_OF_MEMORY, *OTHERS, *EXPERTS]
OF_A_RUN = [asked for asked in EVERY if asked not in SIZES_OF_MEMORY]
ON_A_MACHINE = [asked for asked in EVERY if asked.gpu is not None]


@cache
def answer(asked: Asked) -> pb.Solutions:
    budget = pb.Budget(hours=asked.hours, dollars=asked.dollars, flops=asked.flops, memory=asked.memory)
    return pb.solve(
        asked.target, budget=budget, machine=asked.machine, unique_tokens=asked.unique_tokens, top=1,
        **dict(asked.axes),
    )  # fmt: skip


def forecast(asked: Asked) -> pb.Forecast:
    found = answer(asked)[0].forecast
    assert found is not None
    return found


@cache
def plan(asked: Asked) -> pb.RunPlan:
    """The run of the first answer as a person plans it."""
    model = answer(asked)[0].model
    hours = asked.hours
    if asked.dollars is not None:
        price = asked.machine.price
        hours = asked.dollars / price.middle
    tokens = None if asked.flops is None else int(asked.flops / flops_per_token(model))
    return pb.plan(
        model, asked.machine, hours=hours, tokens=tokens, unique_tokens=asked.unique_tokens,
        memory=asked.memory,
    )  # fmt: skip


def test_there_are_sixty_of_them():
    assert len({str(asked) for asked in EVERY}) == len(EVERY) >= 60


@pytest.mark.parametrize("asked", EVERY, ids=str)
def test_no_shape_is_absurd(asked: Asked):
    model = answer(asked)[0].model
    if model.moe is None:
        usual = usual_aspect(float(body(model)))
    else:
        usual = usual_expert_aspect(float(active_body(model)))
    # Where there is hardly a body, every shape is odd: two layers are the fewest that are searched.
    bound = 3 if body(model) > 2e6 else 4
    assert 1 / bound <= model.dim / model.n_layers / usual <= bound
    assert model.n_layers >= 2
    assert 2 <= model.active_ffn_width / model.dim <= 6.1
    assert model.head_dim in ((32, 64) if model.dim < 512 else (64, 128))
    assert 0.5 <= model.n_heads * model.head_dim / model.dim <= 2.5


@pytest.mark.parametrize(
    "sequence",
    [FLOPS, HOURS, GPUS, SHORT, DOLLARS, MEMORY, SIZES_OF_MEMORY],
    ids=["flops", "hours", "gpus", "gpus for 3 hours", "dollars", "memory", "memory alone"],
)
def test_more_of_a_budget_is_for_larger_models(sequence: list[Asked]):
    sizes = [answer(asked)[0].total for asked in sequence]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1.1 * sizes[0]
    if sequence is not SIZES_OF_MEMORY:
        losses = [answer(asked).certificate.best for asked in sequence]
        assert all(later < earlier for earlier, later in pairwise(losses))


def test_sizes_grow_as_the_law_says():
    """A hundredfold compute is for ten times the model, at every scale: no stairs."""
    sizes = [answer(asked)[0].total for asked in FLOPS if asked.flops >= 1e17]
    for few, many in zip(sizes[:-4], sizes[4:], strict=True):
        assert 6 < many / few < 16


@pytest.mark.parametrize("asked", ON_A_MACHINE, ids=str)
def test_a_model_has_the_figures_of_its_plan(asked: Asked):
    solved, planned = forecast(asked), plan(asked)
    assert planned.fits
    assert solved.step == planned.step
    assert solved.tokens_per_second == planned.speed.tokens_per_second.expected
    assert solved.peak_bytes == planned.memory.peak_bytes
    assert (solved.tokens, solved.loss) == (planned.tokens, planned.loss.loss)
    assert (solved.tokens_per_parameter, solved.epochs) == (planned.tokens_per_parameter, planned.epochs)
    assert solved.hours == planned.hours.expected
    assert solved.warnings == planned.warnings
    if asked.price is None and planned.cost is not None:
        assert solved.dollars == planned.cost.expected


@pytest.mark.parametrize("asked", ON_A_MACHINE, ids=str)
def test_hours_tokens_and_dollars_agree(asked: Asked):
    found, machine = forecast(asked), asked.machine
    update = found.step.tokens_per_update(answer(asked)[0].model.context_length)
    trained = found.hours * 3600 * found.tokens_per_second * (1 - TIME_OVERHEAD)
    assert found.tokens % update == 0
    if asked.unique_tokens is None or found.epochs > FREE_EPOCHS:
        assert abs(found.tokens - trained) <= update / 2 + 1
    assert found.dollars == pytest.approx(found.hours * machine.price.middle * asked.gpus)
    if asked.dollars is not None:
        assert found.dollars == pytest.approx(asked.dollars)
    if asked.flops is not None:
        spent = found.tokens * flops_per_token(answer(asked)[0].model)
        assert abs(spent - asked.flops) <= update * flops_per_token(answer(asked)[0].model)


@pytest.mark.parametrize("asked", [asked for asked in ON_A_MACHINE if asked.hours or asked.dollars], ids=str)
def test_updates_are_what_the_laws_say_for_the_tokens_of_the_hours(asked: Asked):
    found, model = forecast(asked), answer(asked)[0].model
    # Next to a boundary two updates lead to each other; and every GPU has at least one sequence.
    near = update_sizes(model, found.tokens * np.array([0.97, 1.0, 1.03])).tolist()
    assert near[1] == update_tokens(model, int(found.tokens)).tokens
    least = asked.gpus * model.context_length
    assert found.step.tokens_per_update(model.context_length) in [max(each, least) for each in near]


@pytest.mark.parametrize("asked", MEMORY, ids=str)
def test_a_memory_is_kept(asked: Asked):
    gigabytes = int(asked.memory.removesuffix("GB"))
    assert forecast(asked).peak_bytes <= USABLE_SHARE * gigabytes * 10**9
    whole = Asked(hours=asked.hours, gpu=asked.gpu)
    assert forecast(asked).tokens_per_second <= pb.plan(
        answer(asked)[0].model, whole.machine, hours=whole.hours
    ).speed.tokens_per_second.expected * 1.011  # fmt: skip


@pytest.mark.parametrize("asked", OF_A_RUN, ids=str)
def test_a_law_that_ends_is_a_warning(asked: Asked):
    found, model = forecast(asked), answer(asked)[0].model
    counted = law_parameters(model)
    warned = "\n".join(found.warnings)
    ends = {
        " parameters: outside": not DEFAULT_LAW.parameters.low <= counted <= DEFAULT_LAW.parameters.high,
        " tokens: outside": not DEFAULT_LAW.tokens.low <= found.tokens <= DEFAULT_LAW.tokens.high,
        " tokens per parameter: outside": not 1 <= found.tokens / counted <= 500,
        " epochs: ": asked.unique_tokens is not None and found.tokens / asked.unique_tokens > FREE_EPOCHS,
        "with experts it is lower": model.moe is not None,
        "between them gradients go over a network": asked.gpus > 8,
    }
    assert {said for said in ends if said in warned} == {said for said, due in ends.items() if due}
    assert found.loss_is_bound == (found.loss == pytest.approx(log(model.vocab_size)))


def test_the_budgets_reach_where_every_law_ends():
    said = "\n".join(warning for asked in OF_A_RUN for warning in forecast(asked).warnings)
    for what in (
        "embeddings dominate",
        "tokens: outside",
        "tokens per parameter: outside",
        "teaches as much",
    ):
        assert what in said
    assert any(not forecast(asked).warnings for asked in FLOPS)


@pytest.mark.parametrize("flops", [1e18, 1e21, 1e23])
def test_a_list_shows_how_flat_the_optimum_is(flops: float):
    found = pb.solve(budget=pb.Budget(flops=flops), top=5)
    sizes = sorted(solution.total for solution in found)
    assert all(larger / smaller > 1.18 for smaller, larger in pairwise(sizes))
    assert sizes[-1] > 1.8 * sizes[0]
    best = found.certificate.best
    assert all(s.forecast.ranked_loss < best + 0.05 * (best - DEFAULT_LAW.E) for s in found)


def test_a_budget_that_is_too_small_is_a_line_about_itself():
    with pytest.raises(
        pb.InputError, match=r"the budget is enough for about .* parameters, fewer than 1,000,000"
    ):
        pb.solve(budget=pb.Budget(flops=1e12))


@pytest.mark.parametrize("flops", ["1e28", "1e30"])
def test_the_largest_budgets_get_an_answer_and_a_warning(flops: str):
    found = pb.solve(budget=pb.Budget(flops=flops), top=1)[0]
    assert found.total > 3e12
    assert any("outside the law's range" in warning for warning in found.forecast.warnings)


def test_hours_too_short_for_one_update_are_said():
    with pytest.raises(pb.NoSolution, match="too short for one update"):
        pb.solve(budget=pb.Budget(hours=1e-4), machine="h100", dim=1024, context_length=131072)


def test_a_machine_has_no_more_memory_than_it_has():
    with pytest.raises(pb.InputError, match=r"`memory` is 111\.8 GiB and h100-sxm has 79\.6 GiB; use less"):
        pb.solve("350M", budget=pb.Budget(memory="120GB"), machine="h100")
    with pytest.raises(pb.InputError, match=r"`memory` is 111\.8 GiB and h100-sxm has 79\.6 GiB; use less"):
        pb.plan("gpt2", "h100", memory="120GB")
