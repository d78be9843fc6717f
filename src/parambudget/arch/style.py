"""Styles: named sets of choices for a model that is given by its sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final, Literal

from parambudget.arch.blocks import MLAConfig
from parambudget.arch.fields import ModelFields
from parambudget.errors import ConfigError
from parambudget.units import short_repr

StyleName = Literal["llama", "modern"]


@dataclass(frozen=True)
class MeasuredGain:
    """How much lower than the default style another one ended, at the same tokens."""

    nats: float
    """Validation loss per token of the default style less that of this one: the mean of the pairs."""
    setting: str
    """Body parameters and seeds of the pairs, in a few words."""
    measured_on: date
    source: str = "docs/recipe.md"
    """Where the runs stand."""


@dataclass(frozen=True)
class Style:
    """A set of choices, and what is known of it."""

    fields: ModelFields
    """What differs from the defaults of `ModelConfig`."""
    in_words: str
    gains: tuple[MeasuredGain, ...] = ()
    """By size, the smallest first; none for the default style."""


STYLES: Final[Mapping[StyleName, Style]] = MappingProxyType({
    "llama": Style({}, "RMSNorm, SwiGLU, head tied below 1B"),
    "modern": Style(
        {
            "qk_norm": "head", "gated": False, "activation": "relu2", "logit_softcap": 15.0, "tied": False,
            "zero_init_out": True,
        },
        "QK-norm, ReLU^2 without a gate, logits capped at 15, untied head, output projections from zero",
        gains=(
            MeasuredGain(0.004, "1.05M body parameters, 5 seeds", date(2026, 12, 1)),
            MeasuredGain(0.276, "10.6M body parameters, 2 seeds", date(2026, 12, 1)),
        ),
    ),
})  # fmt: skip
"""Llama's choices are the defaults of `ModelConfig`. Modern are those that the short-run records share:

- norms on queries and keys, ReLU^2 (So et al. 2021, arXiv 2109.08668) between two matrices, an untied head,
  output projections that start at zero, and a soft cap of 15: KellerJordan/modded-nanogpt, README of January
  2025 (records 2, 5, 8 and 18), and karpathy/nanochat, nanochat/gpt.py.

Both also have what is left out here: norms without a learned scale; nanochat normalizes the embeddings and
starts the head at zero, modded-nanogpt adds skips and value embeddings.
"""


def with_style(
    style: StyleName | None, fields: Mapping[str, object], *, complete: str | None = None
) -> dict[str, object]:
    """The fields given, over those of a style; without a style, as they are.

    A norm on queries and keys is left out beside latent attention, which norms its latents. `complete` names
    the complete model that the fields change, if there is one: its choices are made, and a style is refused.
    Raises `ConfigError`.
    """
    if style is None:
        return dict(fields)
    if style not in STYLES:
        names = " or ".join(map(repr, STYLES))
        raise ConfigError(f"`style` is {short_repr(style)}; use {names}")
    if complete is not None:
        raise ConfigError(
            f"`style={style}` is for a model that is given by its sizes, and {complete} is complete; leave "
            "out `style`, or change choices one by one"
        )
    chosen = dict(STYLES[style].fields)
    if any(fields.get(name) is not None for name in ("mla", *MLAConfig.model_fields)):
        chosen.pop("qk_norm", None)
    return chosen | dict(fields)
