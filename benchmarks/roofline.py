"""How fast can an update of the planning note be on a GPU, part by part? A bound, from what is really run.

    python benchmarks/roofline.py                       # H100: 620 TFLOP/s, 2.7 TB/s
    python benchmarks/roofline.py --terabytes 4.3       # H200
    python benchmarks/roofline.py --json FILE           # the parts, to compare two states of the code

An update is made on a CUDA device that is not there (tests/support/fake_cuda), and every operation in it is
recorded with the shapes of its arguments. A matmul takes its FLOPs at the given rate, or its bytes at the
given bandwidth if that is longer; a kernel of inductor, and every operation outside of compiled code, takes
the bytes of its arguments. Attention and the gaps between kernels cannot be read off: they are stated terms,
and are called that. A real update is slower than the bound: no kernel reaches it everywhere.
"""

import argparse
import ast
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.fake_cuda.build import build, environment, reason_not_to_build

TRACE: Final = Path(__file__).parent.parent / "tests" / "support" / "fake_cuda" / "trace.py"
TOKENS: Final = 16 * 8 * 1024
MICRO_STEPS: Final = 8
ONCE_AN_UPDATE: Final = ("Muon", "clip", "AdamW", "gaps (stated)")
GATE, GOAL = 188_000, 228_000
"""Tokens/s: 45 and 55 % of an H100's 989 TFLOP/s at 2.12 GFLOP a token."""
GAP_SECONDS: Final = 1.4e-6
"""Between two kernels of a stream, assumed: 2 ms a micro-step where it has 1,430 launches."""
LAUNCH_SECONDS: Final = 9e-6
"""Of the host for a launch outside of compiled code, assumed. It counts where the optimizer starts on an
empty queue, which is where the host has waited for all that it had launched."""
BYTES: Final = {
    "float": 4, "float32": 4, "c10::BFloat16": 2, "c10::Half": 2, "long": 8, "long int": 8, "int": 4,
    "bool": 1, "unsigned char": 1, "signed char": 1, "double": 8, "fp32": 4, "bf16": 2, "fp16": 2, "i64": 8,
    "i32": 4, "i1": 1, "u8": 1, "i8": 1,
}  # fmt: skip
VIEWS: Final = re.compile(
    "aten::(empty|resize_|view|reshape|_reshape_alias|as_strided|detach|alias|select|slice|t|transpose|permute|"
    "expand|unbind|split|chunk|narrow|squeeze|unsqueeze|result_type|item|_local_scalar_dense|set_|is_|lift|to$|contiguous|"
    "_unsafe_view|_foreach_norm_slot|unflatten|flatten|numpy_T|mT|diagonal|movedim|pin_memory|_pin_memory|isfinite$)"
)
"""Operations that move no bytes, or whose inner operation is counted instead."""
PARTS: Final = (
    "GEMM", "attention (stated)", "elementwise, norms, loss", "casts", "accumulation", "Muon, GEMM",
    "Muon, elementwise", "Muon, host (stated)", "clip", "AdamW", "other", "gaps (stated)",
)  # fmt: skip


@dataclass
class Part:
    """What belongs to one line of the table, over a whole update."""

    calls: int = 0
    flops: float = 0.0
    n_bytes: float = 0.0
    seconds: float = 0.0
    kernels: dict[str, list[float]] = field(default_factory=dict)
    """By kernel: calls, bytes, seconds."""

    def add(self, kernel: str, flops: float, n_bytes: float, seconds: float) -> None:
        """One operation more."""
        self.calls, self.flops = self.calls + 1, self.flops + flops
        self.n_bytes, self.seconds = self.n_bytes + n_bytes, self.seconds + seconds
        one = self.kernels.setdefault(kernel, [0, 0.0, 0.0])
        one[0], one[1], one[2] = one[0] + 1, one[1] + n_bytes, one[2] + seconds


@dataclass(frozen=True)
class Op:
    """An operation that was recorded, and the names of those that it was called from."""

    name: str
    arguments: dict[str, Any]
    callers: tuple[str, ...]
    calls_others: bool
    """Another operation that moves bytes was called from it."""


def recorded_ops(chrome: Path) -> Iterator[Op]:
    """The operations of a profile, with their callers by thread."""
    events = [event for event in json.loads(chrome.read_text())["traceEvents"] if event.get("ph") == "X"]
    by_thread = defaultdict(list)
    for event in events:
        by_thread[event["tid"]].append(event)
    for thread in by_thread.values():
        thread.sort(key=lambda event: (event["ts"], -event["dur"]))
        open_events: list[dict[str, Any]] = []
        parents: list[list[dict[str, Any]]] = []
        has_inner = Counter[int]()
        for event in thread:
            while open_events and open_events[-1]["ts"] + open_events[-1]["dur"] <= event["ts"]:
                open_events.pop()
            if moves_bytes(event):
                has_inner.update(id(outer) for outer in open_events)
            parents.append(list(open_events))
            open_events.append(event)
        for event, outer in zip(thread, parents, strict=True):
            if moves_bytes(event):
                callers = tuple(each["name"] for each in outer)
                yield Op(event["name"], event.get("args", {}), callers, bool(has_inner[id(event)]))


def moves_bytes(event: dict[str, Any]) -> bool:
    """Whether an event is an operation on tensors, or a kernel of inductor."""
    name = event["name"]
    return name.startswith("triton_") or (name.startswith("aten::") and not VIEWS.match(name))


def part_of(op: Op) -> str:
    """The line of the table that an operation belongs to."""
    in_optimizer = any(name.startswith("Optimizer.step#") for name in op.callers)
    if in_optimizer:
        if "adam" in op.name or any("Optimizer.step#Adam" in name for name in op.callers):
            return "AdamW"
        return "Muon, GEMM" if is_gemm(op) else "Muon, elementwise"
    if any("AccumulateGrad" in name for name in op.callers):
        return "accumulation"
    if is_gemm(op):
        return "GEMM"
    if op.name.startswith("triton_"):
        made_of = op.name.split("_fused_")[-1]
        casts_only = re.fullmatch(
            r"(_to_copy|_t|_constant_pad_nd|_cat|_permute|_clone|_view)+_?\d*", "_" + made_of.strip("_")
        )
        return "casts" if casts_only else "elementwise, norms, loss"
    if re.search("norm|clip|foreach|clamp|reciprocal|stack|linalg", op.name):
        return "clip"
    return "other"


def flops_of(op: Op) -> float:
    """Of a matmul, by the shapes of its arguments; 0 for everything else."""
    shapes = [shape for shape in op.arguments.get("Input Dims", []) if shape and isinstance(shape[0], int)]
    if "add" in op.name:
        shapes = shapes[1:]
    if not is_gemm(op):
        return 0.0
    a, b = shapes[:2]
    if op.name == "aten::_grouped_mm" and len(a) == len(b) == 2:
        return 2.0 * a[0] * a[1] * b[1]
    return 2.0 * math.prod(a) * b[-1]


def is_gemm(op: Op) -> bool:
    """Whether an operation is a matmul; those that add to a matrix may have copied it first."""
    return bool(re.match("aten::(mm|addmm|bmm|baddbmm|_grouped_mm)_?$", op.name))


def is_attention(op: Op) -> bool:
    """Whether an operation is attention, or part of it."""
    return any("scaled_dot_product" in name for name in (op.name, *op.callers))


def elements_of(part: str, trace: dict[str, Any]) -> int:
    """Of the parameters that operations on lists of tensors are about, in this line of the table."""
    by_optimizer: dict[str, int] = trace["parameters_by_optimizer"]
    return by_optimizer.get(part.split(",")[0], trace["parameters"])


def bytes_of_lists(op: Op, n_elements: float) -> float:
    """Of an operation on lists of tensors, which the profiler names without their shapes if they are long: as
    if its calls were about equal shares of all parameters, in float32. 0 for another operation."""
    types, dims = op.arguments.get("Input type", []), op.arguments.get("Input Dims", [])
    lists = [shape for shape, kind in zip(dims, types, strict=False) if kind == "TensorList"]
    if not lists or any(lists):
        return 0.0
    if "_fused_adam" in op.name:
        return 7 * 4 * n_elements
    written = 0 if "norm" in op.name else 1
    return (len(lists) + written) * 4 * n_elements


def bytes_of(op: Op) -> float:
    """Every tensor argument once, one that is written in place twice, and the result of an aten operation."""
    dims, types = op.arguments.get("Input Dims", []), op.arguments.get("Input type", [])
    if op.name.startswith("triton_"):
        names = signature(op.arguments.get("kernel_file", ""))
        sizes = [size(shape, kind) for shape, kind in zip(dims, types, strict=False)]
        return sum(n * (2 if name.startswith("in_out") else 1) for n, name in zip(sizes, names, strict=False))
    sizes = [size(shape, kind) for shape, kind in zip(dims, types, strict=False)]
    if re.match("aten::_fused_adam", op.name):
        parameters, gradients, first, second, *_ = sizes
        return 2 * parameters + gradients + 2 * first + 2 * second
    if re.match(r"aten::(fill_|zero_)", op.name):
        return sizes[0]
    if re.match(r"aten::(copy_|_foreach_copy_)", op.name):
        return sum(sizes[:2])
    if re.search(r"norm|sum|mean|amax|all$|any$|stack|cat$", op.name):
        return sum(sizes) * (2 if re.search("stack|cat$", op.name) else 1)
    if is_gemm(op):
        return sum(sizes) + (result_bytes(dims, types) if len(sizes) < 3 else 0)
    return sum(sizes) + (max(sizes, default=0.0) if not op.name.endswith("_") else sizes[0])


def result_bytes(dims: list[list[int]], types: list[str]) -> float:
    """Of a matmul whose result is not among its arguments."""
    a, b = dims[0], dims[1]
    return math.prod(a[:-1]) * b[-1] * BYTES.get(types[0], 2)


def size(shape: list[Any], kind: str) -> float:
    """Bytes of a tensor or of a list of tensors; a list does not say its type, and is taken for float32."""
    if not shape:
        return BYTES.get(kind, 0) if kind in BYTES else 0
    if isinstance(shape[0], list):
        return sum(math.prod(each) for each in shape) * 4.0
    return float(math.prod(shape) * BYTES.get(kind, 4))


@cache
def signature(kernel_file: str) -> tuple[str, ...]:
    """The names of a kernel's arguments, from inductor's code."""
    found = re.search(r"'signature': (\{.*?\})", Path(kernel_file).read_text()) if kernel_file else None
    return tuple(ast.literal_eval(found[1])) if found else ("ptr",) * 64


@dataclass(frozen=True)
class Rates:
    """What the device is held to do."""

    flops: float
    """Dense bfloat16 FLOP/s of a matmul."""
    bandwidth: float
    """Bytes per second."""
    attention_seconds: float
    """Of a micro-step."""


def roofline(chrome: Path, trace: dict[str, Any], rates: Rates) -> dict[str, Part]:
    """The parts of an update."""
    parts = {name: Part() for name in PARTS}
    ops = [
        op
        for op in recorded_ops(chrome)
        if not (op.calls_others and not is_gemm(op)) and not is_attention(op)
    ]
    n_calls = Counter((part_of(op), op.name) for op in ops)
    for op in ops:
        name = part_of(op)
        share = elements_of(name, trace) / n_calls[name, op.name]
        flops, n_bytes = flops_of(op), bytes_of_lists(op, share) or bytes_of(op)
        seconds = max(flops / rates.flops, n_bytes / rates.bandwidth)
        parts[name].add(op.name, flops, n_bytes, seconds)
    warm = trace["updates"][-1]
    on_device = parts["Muon, GEMM"].seconds + parts["Muon, elementwise"].seconds
    if warm["queued"] == 0 and on_device:
        exposed = warm["optimizer_launches"] * LAUNCH_SECONDS - on_device
        parts["Muon, host (stated)"].seconds = max(0.0, exposed)
    parts["attention (stated)"].seconds = MICRO_STEPS * rates.attention_seconds
    launches, gaps = trace["updates"][-1]["launches"], parts["gaps (stated)"]
    gaps.calls, gaps.seconds = launches, launches * GAP_SECONDS
    return parts


def record(folder: Path, flags: list[str]) -> None:
    """Run the trace, and leave its profile and its counts in the folder."""
    files = ["--chrome", str(folder / "update.json"), "--code", str(folder / "code")]
    ran = subprocess.run(
        [sys.executable, str(TRACE), "--updates", "2", *files, *flags], stdout=subprocess.PIPE, text=True,
        env=os.environ | environment(build(folder / "device")), check=True,
    )  # fmt: skip
    (folder / "trace.json").write_text(ran.stdout)


def report(parts: dict[str, Part], trace: dict[str, Any], n_kernels: int) -> None:
    """The table of parts, the largest kernels, and what stands between the bound and the goals."""
    seconds = sum(part.seconds for part in parts.values())
    print(f"{'part':26} {'calls':>7} {'TFLOP':>7} {'GB':>7} {'ms an update':>13} {'a micro-step':>13}")
    for name, part in parts.items():
        figures = (
            f"{part.calls:7,} {part.flops / 1e12:7.2f} {part.n_bytes / 1e9:7.1f} {part.seconds * 1e3:13.1f}"
        )
        once = name.split(",")[0] in ONCE_AN_UPDATE
        print(f"{name:26} {figures}" + ("" if once else f" {part.seconds * 1e3 / MICRO_STEPS:13.2f}"))
    print(f"bound: {seconds * 1e3:.0f} ms an update of {TOKENS:,} tokens = {TOKENS / seconds:,.0f} tokens/s")
    for name, wanted in (("gate", GATE), ("goal", GOAL)):
        over = (seconds - TOKENS / wanted) * 1e3
        place = f"{over:.0f} ms above" if over > 0 else f"{-over:.0f} ms below"
        print(f"{place} the {TOKENS / wanted * 1e3:.0f} ms of the {name}, {wanted:,} tokens/s")
    print("\nwhat takes longest:")
    rows = [(name, kernel, *row) for name, part in parts.items() for kernel, row in part.kernels.items()]
    for name, kernel, calls, n_bytes, took in sorted(rows, key=lambda row: -row[4])[:n_kernels]:
        each = f"{took * 1e3:8.2f} ms {int(calls):6,} x {n_bytes / calls / 1e6:8.1f} MB"
        print(f"{each}  {name}: {kernel[:80]}")
    warm = trace["updates"][-1]
    of_optimizer, waits = warm["optimizer_launches"], warm["sync"] + warm["event_sync"]
    print(
        f"\ncounted: {warm['launches']:,} launches, {of_optimizer:,} of them the optimizer's; waits: {waits};"
    )
    peaks = (warm["peak_bytes"] / 2**30, trace["planned_peak_bytes"] / 2**30)
    print("{} graphs; cuBLAS {:.1f} TFLOP; peak {:.2f} GiB, planned {:.2f}".format(
        trace["graphs"], warm["gemm_tflop"], *peaks))  # fmt: skip


def main() -> None:
    """Trace, bound and print."""
    parser = argparse.ArgumentParser(description="The roofline of the planning note's update, part by part.")
    parser.add_argument("--teraflops", type=float, default=620, help="of matmuls, dense bfloat16")
    parser.add_argument(
        "--terabytes", type=float, default=2.7, help="a second: 2.7 for an H100, 4.3 for an H200"
    )
    parser.add_argument(
        "--attention", type=float, default=8.0, help="ms a micro-step; on an H200 11.8 measured"
    )
    parser.add_argument("--kernels", type=int, default=16, help="rows in the table of kernels")
    parser.add_argument("--keep", type=Path, help="the trace is kept in this folder, and read if it is there")
    parser.add_argument("--json", type=Path, help="write the parts into this file")
    asked = parser.parse_args()
    if (reason := reason_not_to_build()) is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as made:
        folder = asked.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "trace.json").exists():
            record(folder, [])
        trace = json.loads((folder / "trace.json").read_text())
        rates = Rates(asked.teraflops * 1e12, asked.terabytes * 1e12, asked.attention / 1e3)
        parts = roofline(folder / "update.json", trace, rates)
    print(f"a bound, no measurement: {asked.teraflops:g} TFLOP/s and {asked.terabytes:g} TB/s")
    report(parts, trace, asked.kernels)
    if asked.json is not None:
        asked.json.write_text(json.dumps({name: asdict(part) for name, part in parts.items()}, indent=1))


if __name__ == "__main__":
    main()
