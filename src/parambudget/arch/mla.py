"""Multi-head latent attention: keys and values of all heads grow from one small vector per token.

Source: DeepSeek-AI 2024 (DeepSeek-V2), arXiv 2405.04434, section 2.1.
"""

from pydantic import BaseModel, ConfigDict, Field

from parambudget.arch.sizes import Size


class MLA(BaseModel):
    """The `mla` block of a model. Queries and keys of a head are two parts side by side: one grows from the
    latent vectors, the other carries the position, its key shared by all heads."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kv_lora_rank: Size = Field(
        description="Width of the latent that keys and values grow from; it is cached."
    )
    q_lora_rank: Size | None = Field(
        None, description="Width of the latent that queries grow from; without it they are projected at once."
    )
    qk_nope_head_dim: Size = Field(description="Width of a head's query and key that carries no position.")
    qk_rope_head_dim: Size = Field(description="Width of a head's query and key that is rotated.")
    v_head_dim: Size = Field(description="Width of a head's value.")
