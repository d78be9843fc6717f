"""What a class of Hugging Face calls our tensors, as data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from parambudget.build.names.ways import ROWS, Way

Parts = str | tuple[str, ...]
"""Our name of what the class keeps under one name, or our names of it.

Names are of modules, which have `weight` and `bias`, or of single tensors. A `*` runs over experts, or over
heads; where only ours has one, the class keeps all of them in one tensor.
"""


@dataclass(frozen=True)
class Names:
    """The names in the files of one class: theirs to ours."""

    top: Mapping[str, Parts]
    """Outside the layers."""
    layers: str
    """Where the layers are."""
    block: Mapping[str, Parts]
    """Within a layer."""
    base: str
    """What files of the model without a head leave out in front."""
    ways: Mapping[str, Way] = field(default_factory=dict)
    """How several of ours are one of theirs, if not as rows."""
    parallel: Mapping[str, Parts] | None = None
    """In place of `block` where attention and FFN of a layer have each their own norm, side by side."""
    norms_less_one: bool = False
    """Norms keep their scale less one."""
    heads_apart: bool = False
    """Norms of single heads are tensors of their own."""
    others: tuple["Names", ...] = ()
    """Other forms that files of the class have, and that are read too."""

    def way(self, theirs: str) -> Way:
        """How ours are one of theirs, by the name without its place."""
        return self.ways.get(theirs, ROWS)

    def forms(self) -> Iterator["Names"]:
        """How files of the class may name things; first, how they are written."""
        for form in (self, *self.others):
            yield form
            yield replace(
                form,
                top={name.removeprefix(form.base): ours for name, ours in form.top.items()},
                layers=form.layers.removeprefix(form.base),
            )
