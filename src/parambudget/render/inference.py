"""The plan of inference as a screen: does it fit, what takes the memory, and what would fit."""

from parambudget.planning.inference import CACHE_DTYPE, InferencePlan
from parambudget.planning.machine import USABLE_SHARE
from parambudget.render.plan import labelled_lines, parameters_in_words
from parambudget.units import count_phrase, format_bytes


def inference_screen(plan: InferencePlan, width: int) -> list[str]:
    """The screen of `plan --inference`."""
    machine = plan.machine
    answers = {
        "model": [parameters_in_words(plan.breakdown)],
        "machine": [f"{machine.name}, {format_bytes(machine.memory_bytes)}"],
        "memory": [_verdict(plan), _parts(plan), *plan.suggestions],
        "warnings": plan.warnings,
    }
    return labelled_lines(answers, width)


def _verdict(plan: InferencePlan) -> str:
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    most = plan.largest_batch_size
    fit = f"up to {count_phrase(most, 'sequence')} of {plan.context:,} tokens at a time {_verb(most)}"
    if not most:
        fit = f"not even one sequence of {plan.context:,} tokens fits"
    return (
        f"{verdict}: {format_bytes(plan.needed_bytes)} of {format_bytes(plan.machine.memory_bytes)}, of "
        f"which {USABLE_SHARE:.0%} can be used; {fit}"
    )


def _verb(count: int) -> str:
    return "fit" if count > 1 else "fits"


def _parts(plan: InferencePlan) -> str:
    sequences = f"{count_phrase(plan.batch_size, 'sequence')} of {count_phrase(plan.context, 'token')}"
    parts = [
        f"weights {format_bytes(plan.memory.weights_bytes)}",
        f"cache of keys and values {format_bytes(plan.memory.cache_bytes)} ({sequences})",
    ]
    if plan.overhead_bytes:
        parts.append(f"the GPU's context {format_bytes(plan.overhead_bytes)} (assumed)")
    return (
        f"{', '.join(parts)}; weights and cache in {CACHE_DTYPE} (`sample` of this package keeps float32 "
        "weights, twice as much); activations of a few tokens are small beside them and not counted"
    )
