"""What a run was measured to reach, from which predictions take their level: its loss, its speed or both."""

from dataclasses import dataclass, replace
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.speed.profile import at_measured_speed
from parambudget.cost.speed.roofline import tokens_per_second
from parambudget.cost.step import StepConfig, StepFields
from parambudget.errors import InputError
from parambudget.planning.machine import Machine
from parambudget.planning.step_search import NOTHING_GIVEN
from parambudget.planning.update import choose_step
from parambudget.scaling.anchor import Anchor
from parambudget.scaling.loss import LossLaw, anchor_law, law_parameters, uniform_loss
from parambudget.scaling.numbers import require_positive
from parambudget.units import format_count, short_repr

NEEDED_FOR_A_LOSS: Final = "a loss is one of a model after some tokens: give loss, tokens and model together"


@dataclass(frozen=True)
class MeasuredRun:
    """A run that is over: a loss with its model and tokens, tokens per second, or both."""

    loss: float | None = None
    """On held-out text at the end, in nats per token."""
    tokens: int | None = None
    """Trained on until then."""
    model: ModelConfig | None = None
    """None where the speed is that of the model and update that are planned."""
    unique_tokens: int | None = None
    """Of its text; None where no token was read twice, or it is not known."""
    tokens_per_second: float | None = None
    """Of all its devices together."""
    step: StepConfig | None = None
    """How its updates were executed; None for the way that is planned for its model."""
    device: str | None = None
    """What it ran on, as torch names it; None for the machine that is planned with."""
    source: str = "a measured run"
    """Where it was measured, in words."""

    def __post_init__(self) -> None:
        numbers = (self.loss, self.tokens, self.unique_tokens, self.tokens_per_second)
        names = ("loss", "tokens", "unique_tokens", "tokens_per_second")
        for name, value in zip(names, numbers, strict=True):
            if value is not None:
                require_positive(value, name)
        if self.model is not None and not isinstance(self.model, ModelConfig):
            raise InputError(
                f"the model of {self.source} is {short_repr(self.model)}; give what pb.model returns"
            )
        if self.loss is None and self.tokens_per_second is None:
            raise InputError(
                f"{self.source} has neither a loss nor tokens per second, so nothing was measured; give loss "
                "with tokens and model, or tokens-per-second"
            )
        of_a_loss = (self.loss, self.tokens) + ((self.model,) if self.loss is not None else ())
        if None in of_a_loss and of_a_loss != (None, None):
            raise InputError(f"{self.source}: {NEEDED_FOR_A_LOSS}")
        if self.unique_tokens is not None and self.loss is None:
            raise InputError(f"{self.source}: unique-tokens are of the text of a loss; {NEEDED_FOR_A_LOSS}")
        if self.loss is not None and self.model is not None:
            guessing = uniform_loss(self.model.vocab_size)
            if self.loss >= guessing:
                raise InputError(
                    f"{self.source}: a loss of {self.loss:g} is not below ln {self.model.vocab_size:,} = "
                    f"{guessing:.4g}, that of guessing uniformly; give the loss in nats per token of a run "
                    "that has learned something"
                )

    @property
    def anchor(self) -> Anchor | None:
        """What a law takes its level from; None where no loss was measured."""
        if self.loss is None or self.model is None or self.tokens is None:
            return None
        return Anchor(
            self.loss, self.tokens, float(law_parameters(self.model)), self.model.vocab_size, self.source,
            self.unique_tokens,
        )  # fmt: skip

    def law_at_its_level(self, law: LossLaw) -> LossLaw:
        """The law through its loss; as it is where none was measured."""
        return law if self.anchor is None else anchor_law(law, self.anchor)

    def machine_at_its_speed(self, machine: Machine) -> Machine:
        """The machine as fast as its model was on it; as it is, with a note, where that was another one."""
        if self.tokens_per_second is None:
            return machine
        if self.model is None:
            raise InputError(
                f"{self.source}: tokens per second without a model are those of a planned one, and here many "
                "are compared; give model as well"
            )
        if (reason := self._why_not(machine)) is not None:
            note = f"the speed of {self.source} is not taken: {reason}"
            return replace(machine, notes=(*machine.notes, note))
        step = self.step
        if step is None:
            step = choose_step(self.model, machine, NOTHING_GIVEN, tokens=self.tokens)[0]
        return self._at_speed(machine, self.model, step)

    def machine_for(
        self, machine: Machine, model: ModelConfig, given: StepFields, *, hours: float | None = None,
        tokens: int | None = None, unique_tokens: int | None = None,
    ) -> Machine:  # fmt: skip
        """The same where this model is planned, in updates of which so much is given: speeds without a model
        are of that."""
        if self.tokens_per_second is None or self.model is not None:
            return self.machine_at_its_speed(machine)
        scaled, step = machine, None
        for _ in range(_MOST_ROUNDS):  # the update follows from the tokens, and those from the speed
            before = step
            step, _, _ = choose_step(
                model, scaled, given, hours=hours, tokens=tokens, unique_tokens=unique_tokens
            )
            if step == before:
                break
            scaled = self._at_speed(machine, model, step)
        return scaled

    def _why_not(self, machine: Machine) -> str | None:
        """Why its speed says nothing of this machine; None where it does."""
        if self.device is None:
            return None
        if machine.accelerator is None or find_accelerator(self.device) != machine.accelerator:
            return f"it ran on {self.device}, and this is a plan for {machine.name}"
        if self.step is not None and self.step.world_size > 1:
            return f"it ran on {self.step.world_size} devices, and its summary does not say how they shared"
        return None

    def _at_speed(self, machine: Machine, model: ModelConfig, step: StepConfig) -> Machine:
        assert self.tokens_per_second is not None
        profile = machine.profile
        if profile.mfu is not None:
            raise InputError(
                f"{self.source} has tokens per second, and `mfu={profile.mfu:g}` says how fast a run is as "
                "well; give one of them"
            )
        if profile.peak_flops is not None:
            limit = profile.peak_flops * step.world_size / flops_per_token(model, "causal")
            if self.tokens_per_second > limit:
                raise InputError(
                    f"{self.source}: {self.tokens_per_second:,.0f} tokens per second are more than the "
                    f"hardware limit of {machine.name} for its model, {limit:,.0f}; is it another GPU or "
                    "another model?"
                )
        factor = self.tokens_per_second / float(tokens_per_second(model, step, profile))
        source = (
            f"at the speed of {self.source}: {format_count(self.tokens_per_second)} tokens/s, {factor:.2f} "
            f"times what is expected with constants {profile.source}"
        )
        return replace(machine, profile=at_measured_speed(profile, factor, source))


_MOST_ROUNDS: Final = 8
