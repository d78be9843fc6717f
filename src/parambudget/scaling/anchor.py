"""A measured run that a law takes its level from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    """What a run reached: with it a law expects the losses of that text and tokenizer."""

    loss: float
    """Nats per token of held-out text."""
    tokens: float
    """Trained on."""
    n_parameters: float
    """N of its model, as `loss.law_parameters` counts."""
    vocab_size: int
    """Of its model."""
    source: str
    """Where it was measured, in words."""
    unique_tokens: float | None = None
    """Of the text that was read; None where no token was read twice, or it is not known."""
