"""The constants of the throughput model told to a person, a line each."""

from parambudget.cost.speed.profile import Stack
from parambudget.render.terminal import table
from parambudget.units import format_bytes, format_count, format_seconds, format_share


def stack_lines(stack: Stack) -> list[str]:
    """What a device with its software reaches, and how far off predictions from it are claimed to be."""
    once, most = format_seconds(stack.micro_seconds), format_share(stack.fastest - 1, 0)
    least = format_seconds(stack.matrix_seconds)
    rows = [
        ["device", stack.device],
        ["software", f"{stack.name}, {stack.dtype}"],
        ["source", stack.source + (f", {stack.measured_on}" if stack.measured_on else "")],
        ["matmuls", f"{_rate(stack.matmul_flops)}, operands moved {stack.matmul_traffic:.2g} times"],
        ["attention", f"{_rate(stack.attention_flops)} of what the mask leaves"],
        ["Muon", f"{_rate(stack.newton_schulz_flops)}, {least} or more a matrix"],
        ["memory", f"{format_bytes(stack.bandwidth_bytes)} a second"],
        ["elementwise", f"{stack.element_bytes:.3g} bytes per token and output of a matmul"],
        ["loss", f"{stack.logit_bytes:.3g} bytes per token and entry of the vocabulary"],
        ["launches", f"{once} a micro-step, {format_seconds(stack.layer_seconds)} a layer"],
        ["claimed", f"tokens/s within {format_share(stack.slowest - 1, 0)} and {most}"],
    ]  # fmt: skip
    return table(rows, left=(0, 1))


def _rate(flops: float) -> str:
    return f"{format_count(float(f'{flops:.3g}'))} FLOP/s"
