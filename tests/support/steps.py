"""Steps in few words."""

from parambudget.cost.step import StepConfig


def step_of(
    batch_size: int, gradient_accumulation_steps: int | None = None, *, world_size: int = 1, **fields: object
) -> StepConfig:
    """A step of one micro-step per device unless more are given."""
    return StepConfig.read(
        {
            "batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps or world_size,
            "world_size": world_size,
            **fields,
        }
    )
