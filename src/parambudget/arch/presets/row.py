"""One published model as a row of a table: its fields, its exact counts, and where it was published."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Unpack

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import unsupported_note, with_defaults
from parambudget.arch.fields import ModelFields


@dataclass(frozen=True)
class Preset:
    """One published model."""

    name: str
    given: Mapping[str, Any]
    """The fields in which it differs from the defaults."""
    published_count: int
    """Unique parameters of the published model, a tied head once."""
    source: str
    """Where the configuration was published, and what was counted."""
    published_active: int | None = None
    """Parameters used per token, for models with experts."""
    unsupported: tuple[str, ...] = ()
    """What the published model computes and `model` cannot express; the count is the same."""

    @cached_property
    def model(self) -> ModelConfig:
        """The complete model, validated on first use: importing the tables costs nothing."""
        return with_defaults(self.given).model

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the model beside its counts."""
        if not self.unsupported:
            return ()
        return (unsupported_note(self.unsupported, is_built=self.model.counted_parts is None),)


def dense_family(
    owner: str, counted: str, paper: str, unsupported: tuple[str, ...] = (), **shared: Unpack[ModelFields]
) -> Callable[..., Preset]:
    """A function that makes the rows of one family; its arguments are the columns of the table."""

    def row(
        name: str, repo: str, published_count: int,
        n_layers: int, dim: int, n_heads: int, n_kv_heads: int, intermediate_size: int,
        /, **own: Unpack[ModelFields],
    ) -> Preset:  # fmt: skip
        sizes: ModelFields = {
            "n_layers": n_layers, "dim": dim, "n_heads": n_heads, "n_kv_heads": n_kv_heads,
            "intermediate_size": intermediate_size,
        }  # fmt: skip
        given = MappingProxyType(shared | sizes | own)
        source = _source(owner, repo, paper, counted)
        return Preset(name, given, published_count, source, unsupported=unsupported)

    return row


def moe_family(
    owner: str, counted: str, paper: str, unsupported: tuple[str, ...] = (), **shared: Unpack[ModelFields]
) -> Callable[..., Preset]:
    """The same for models with experts. With latent attention every head has its own keys, so one number of
    heads is enough."""

    def row(
        name: str, repo: str, published_count: int, published_active: int, n_layers: int, dim: int,
        heads: int | tuple[int, int], n_experts: int, n_experts_per_token: int, width: int,
        /, **own: Unpack[ModelFields],
    ) -> Preset:  # fmt: skip
        n_heads, n_kv_heads = heads if isinstance(heads, tuple) else (heads, heads)
        sizes: ModelFields = {
            "n_layers": n_layers, "dim": dim, "n_heads": n_heads, "n_kv_heads": n_kv_heads,
            "n_experts": n_experts, "n_experts_per_token": n_experts_per_token,
            "expert_intermediate_size": width,
        }  # fmt: skip
        given = MappingProxyType(shared | sizes | own)
        source = _source(owner, repo, paper, counted)
        return Preset(name, given, published_count, source, published_active, unsupported)

    return row


def hybrid_family(
    owner: str, counted: str, paper: str, unsupported: tuple[str, ...] = (), **shared: Unpack[ModelFields]
) -> Callable[..., Preset]:
    """The same for models with other mixers than attention, whose sizes have too little in common for
    columns."""

    def row(
        name: str, repo: str, published_count: int, published_active: int | None = None,
        /, **own: Unpack[ModelFields],
    ) -> Preset:  # fmt: skip
        given = MappingProxyType(shared | own)
        source = _source(owner, repo, paper, counted)
        return Preset(name, given, published_count, source, published_active, unsupported)

    return row


def _source(owner: str, repo: str, paper: str, counted: str) -> str:
    return f"huggingface.co/{owner}/{repo} config.json ({paper}); counted: {counted}"
