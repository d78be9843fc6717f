"""Which results of matmuls a compiled step keeps, where its activations have a budget.

By itself torch saves the most FLOPs per byte, whatever depends on what. Then the residual stream is not
saved: the backward pass begins by recomputing it from the embedding on, and what that takes is in memory at
once. Of a model with 8 layers a budget of a half held 2.67 GiB at the peak that way, and 2.00 GiB this way,
at the same number of FLOPs (docs/memory.md).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch._functorch import config, partitioners
from torch._inductor.custom_graph_pass import get_hash_for_files


class SaveResidualStream:
    """Saves what is added to the residual stream, so that every layer is recomputed from its own input; then
    all other results, those of the last layers first. What fits nowhere is recomputed."""

    def __call__(
        self, memory: list[float], joint_graph: fx.Graph, max_memory: float,
        _: object, all_recomputable_banned_nodes: list[fx.Node],
    ) -> tuple[list[int], list[int]]:  # fmt: skip
        """The indices of the nodes that are saved, and of those that are recomputed. The memory of each is a
        share of all activations, as `max_memory` is."""
        nodes, place = all_recomputable_banned_nodes, {node: i for i, node in enumerate(joint_graph.nodes)}
        order = sorted(range(len(nodes)), key=lambda i: (not _is_added(nodes[i]), -place[nodes[i]]))
        saved, recomputed, left = [], [], max_memory
        for i in order:
            if memory[i] <= left:
                saved.append(i)
                left -= memory[i]
            else:
                recomputed.append(i)
        return saved, recomputed

    def uuid(self) -> Any:
        """What torch's cache of compiled code knows this by."""
        return get_hash_for_files((__file__,))


# Some versions of torch take any callable, others what belongs to a class that is in several places.
if (_SOLVER := getattr(partitioners, "CustomKnapsackSolver", None)) is not None:
    _SOLVER.register(SaveResidualStream)


def _is_added(node: fx.Node) -> bool:
    """Whether a node, in another shape or precision perhaps, is a summand."""
    for user in node.users:
        name = str(user.target)
        if ".add." in name:
            return True
        if any(part in name for part in (".view.", "reshape", "convert_element_type")) and _is_added(user):
            return True
    return False


def within_budget(compiled: Callable[[Tensor], Tensor], budget: float) -> Callable[[Tensor], Tensor]:
    """The compiled function, which keeps at most this share of its activations for its backward pass."""
    if budget == 1:
        return compiled
    solver = SaveResidualStream()

    def function(tokens_BT: Tensor) -> Tensor:
        # Read when a graph is cut into its two passes: in the first call, and where it is compiled again.
        with config.patch(activation_memory_budget=budget, activation_memory_budget_solver=solver):
            return compiled(tokens_BT)

    return function
