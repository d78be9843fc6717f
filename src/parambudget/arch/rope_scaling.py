"""The optional block of a model that says how its rotary angles are rescaled for long contexts."""

from collections.abc import Iterator
from math import log, sqrt
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from parambudget.arch.dims import RopeType
from parambudget.arch.validation import PATTERN, PositiveFloat, PositiveSize, Share
from parambudget.units import count_phrase

PairFactors = Annotated[tuple[PositiveFloat, ...], PATTERN]
"""One factor for each pair of rotated elements."""


class RopeScaling(BaseModel):
    """The `rope_scaling` block of a model. It holds for every layer with rotary positions, except local
    layers with a base of their own, `rope_theta_local`: their angles are plain."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rope_type: RopeType = Field(
        description="Method that rescales rotary frequencies for a longer context; none leaves them plain."
    )
    rope_factor: PositiveFloat | None = Field(
        default=None, description="What frequencies are divided by; for dynamic, how fast the base grows."
    )
    rope_original_context: PositiveSize | None = Field(
        default=None, description="Context before it was extended (llama3, yarn, longrope)."
    )
    rope_attention_factor: PositiveFloat | None = Field(
        default=None,
        description=(
            "Rotated elements are multiplied by this (yarn, longrope); by default 0.1 * ln(rope_factor) + 1 "
            "for yarn, and what LongRoPE derives from the extension."
        ),
    )
    rope_beta_fast: PositiveFloat = Field(
        default=32.0,
        description="Pairs that turn more often in the original context keep their frequency (yarn).",
    )
    rope_beta_slow: PositiveFloat = Field(
        default=1.0, description="Pairs that turn less often are divided in full (yarn)."
    )
    rope_truncate: bool = Field(
        default=True, description="The bounds between those pairs are rounded outwards (yarn; gpt-oss: not)."
    )
    rope_low_freq_factor: PositiveFloat = Field(
        default=1.0,
        description="Pairs that turn less often in the original context are divided in full (llama3).",
    )
    rope_high_freq_factor: PositiveFloat = Field(
        default=4.0, description="Pairs that turn more often keep their frequency (llama3)."
    )
    rope_short_factors: PairFactors | None = Field(
        default=None, description="A divisor for each pair, up to rope_original_context tokens (longrope)."
    )
    rope_long_factors: PairFactors | None = Field(
        default=None, description="The same for longer sequences (longrope)."
    )
    rope_recompute_cache: bool = Field(
        default=False,
        description=(
            "Generation that passes rope_original_context computes its cache anew with the long factors "
            "(longrope in Phi-3), instead of keeping keys with short ones."
        ),
    )
    rope_proportion: Share = Field(
        default=1.0,
        description="Share of the pairs that is rotated, the fast ones; the others are not (proportional).",
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        kind, fields = self.rope_type, type(self).model_fields
        if kind == "none":
            raise ValueError("rope_type is 'none', which needs no rope_scaling; leave rope_scaling out")
        missing = [name for name in _REQUIRED[kind] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"rope_type={kind!r} needs {missing[0]}; give it")
        allowed = ("rope_type", *_REQUIRED[kind], *_OPTIONAL[kind])
        unused = [
            name
            for name, info in fields.items()
            if name not in allowed and getattr(self, name) != info.default
        ]
        if unused:
            kinds = [one for one in _REQUIRED if unused[0] in (*_REQUIRED[one], *_OPTIONAL[one])]
            raise ValueError(
                f"{unused[0]} has no meaning with rope_type={kind!r}, only with {', '.join(kinds)}; leave it "
                "out"
            )
        if kind == "longrope" and self.rope_original_context == 1:
            raise ValueError(
                "rope_original_context is 1, from which LongRoPE derives nothing; give 2 or more"
            )
        return self

    def contradictions(self, n_pairs: int, rope_theta: float) -> Iterator[str]:
        """What does not go with heads of which that many pairs are rotated, or with that base."""
        for name in ("rope_short_factors", "rope_long_factors"):
            factors = getattr(self, name)
            if factors is not None and len(factors) != n_pairs:
                yield (
                    f"{name} has {count_phrase(len(factors), 'entry')}, and {n_pairs} pairs of each head are "
                    "rotated; give one per pair"
                )
        if self.rope_type == "dynamic" and n_pairs == 1:
            yield "rope_type='dynamic' needs 2 or more rotated pairs, got 1; raise rotary_fraction"
        if self.rope_type == "yarn" and rope_theta == 1:
            yield "rope_theta is 1, at which all pairs turn alike and YaRN is not defined; raise rope_theta"
        if self.rope_type == "proportional" and int(2 * n_pairs * self.rope_proportion) < 2:
            yield (
                f"rope_proportion={self.rope_proportion} rotates none of {n_pairs} pairs; raise it or set "
                "position='none'"
            )

    def attention_factor(self, context_length: int) -> float:
        """What rotated queries and keys are multiplied by in a model of that context.

        Sources of the defaults: YaRN, Peng et al. 2023, arXiv 2309.00071, section 3.4; LongRoPE, Ding et al.
        2024, arXiv 2402.13753, as in the code of Phi-3.
        """
        if self.rope_attention_factor is not None:
            return self.rope_attention_factor
        if self.rope_type == "yarn":
            return yarn_attention_factor(self.rope_factor or 1.0)
        if self.rope_type == "longrope" and self.rope_original_context is not None:
            return longrope_attention_factor(
                context_length / self.rope_original_context, self.rope_original_context
            )
        return 1.0


def yarn_attention_factor(factor: float, strength: float = 1.0) -> float:
    """1 + 0.1 ln(factor), its second term multiplied by `strength`: 1 in YaRN, DeepSeek's mscale."""
    return 1.0 if factor <= 1 else 0.1 * strength * log(factor) + 1.0


def yarn_strength(factor: float, attention_factor: float) -> float:
    """The strength with which `yarn_attention_factor` is that; 0 where no strength changes it."""
    return 0.0 if factor <= 1 else round((attention_factor - 1) / (0.1 * log(factor)), 12)


def longrope_attention_factor(extension: float, original_context: int) -> float:
    """sqrt(1 + ln(extension) / ln(original_context)); 1 without an extension."""
    return 1.0 if extension <= 1 else sqrt(1 + log(extension) / log(original_context))


_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "linear": ("rope_factor",),
    "dynamic": ("rope_factor",),
    "yarn": ("rope_factor", "rope_original_context"),
    "llama3": ("rope_factor", "rope_original_context"),
    "longrope": ("rope_original_context", "rope_short_factors", "rope_long_factors"),
    "proportional": (),
}
_OPTIONAL: Final[dict[str, tuple[str, ...]]] = {
    "linear": (),
    "dynamic": (),
    "yarn": ("rope_attention_factor", "rope_beta_fast", "rope_beta_slow", "rope_truncate"),
    "llama3": ("rope_low_freq_factor", "rope_high_freq_factor"),
    "longrope": ("rope_attention_factor", "rope_recompute_cache"),
    "proportional": ("rope_factor", "rope_proportion"),
}
