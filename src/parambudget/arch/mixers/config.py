"""The blocks of mixers other than attention, which `mixer_pattern` puts in its place in some layers."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from parambudget.arch.dims import GateNorm, StateNorm
from parambudget.arch.validation import NonNegativeFloat, PositiveFloat, PositiveSize, divisors

OutputGateActivation = Literal["silu", "sigmoid"]


class GatedDeltaNetConfig(BaseModel):
    """The `gated_delta_net` block: linear attention whose state decays and is corrected by what it should
    have held.

    Source: Yang, Kautz and Hatamizadeh 2024 (Gated DeltaNet), arXiv 2412.06464, as in Qwen3-Next.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    delta_n_key_heads: PositiveSize = Field(description="Heads of queries and keys (Qwen3-Next: 16).")
    delta_n_value_heads: PositiveSize = Field(
        description=(
            "Heads of values, each with a state of its own; a multiple of delta_n_key_heads (Qwen3-Next: 32)."
        )
    )
    delta_key_dim: PositiveSize = Field(default=128, description="Width of one head's query and key.")
    delta_value_dim: PositiveSize = Field(default=128, description="Width of one head's value.")
    delta_conv_width: PositiveSize = Field(
        default=4, description="Tokens that the convolution before queries, keys and values sees."
    )

    delta_gate_rank: PositiveSize | None = Field(
        default=None,
        description=(
            "Rank of the projections to output gates and decays; unless set, one matrix each (Kimi Linear: "
            "128)."
        ),
    )
    delta_channel_decay: bool = Field(
        default=False,
        description=(
            "A decay of its own for each channel of a key (Kimi Linear) instead of one for the whole head."
        ),
    )
    delta_decay_bound: PositiveFloat | None = Field(
        default=None,
        description=(
            "The most by which the logarithm of the state may decay per token, behind a sigmoid; unless set, "
            "any decay, behind a softplus (Ling 3: 5)."
        ),
    )
    delta_gate_activation: OutputGateActivation = Field(
        default="silu", description="Activation of the output gate (Kimi Linear: sigmoid)."
    )
    delta_negative_eigenvalues: bool = Field(
        default=False,
        description="Let a key's content be corrected by up to twice what is wrong with it (OLMo Hybrid).",
    )
    delta_norm_eps: PositiveFloat | None = Field(
        default=None,
        description=(
            "Added to the variance in the norm of the output; unless set, norm_eps (OLMo Hybrid: 1e-5)."
        ),
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.delta_n_value_heads % self.delta_n_key_heads:
            raise ValueError(
                f"delta_n_key_heads={self.delta_n_key_heads} does not divide "
                f"delta_n_value_heads={self.delta_n_value_heads}; use one of "
                f"{divisors(self.delta_n_value_heads)}"
            )
        return self


class ShortConvolutionConfig(BaseModel):
    """The `short_convolution` block: a convolution over the last few tokens between two gates.

    Source: Liquid AI's LFM2, as in the class Lfm2ShortConv of Hugging Face transformers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    short_conv_width: PositiveSize = Field(
        default=3, description="Tokens that the convolution sees (LFM2: 3)."
    )
    short_conv_bias: bool = Field(
        default=False, description="Bias on the convolution and on the projections before and after it."
    )


class LightningAttentionConfig(BaseModel):
    """The `lightning_attention` block: linear attention whose state decays by a constant of head and layer.

    Source: Qin et al. 2024 (Lightning Attention-2), arXiv 2401.04658, as in MiniMax-01, arXiv 2501.08313.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lightning_n_heads: PositiveSize = Field(
        description="Heads of queries, keys and values, each with a decay of its own (MiniMax-01: 64)."
    )
    lightning_head_dim: PositiveSize = Field(
        default=128, description="Width of one head's query, key and value."
    )
    lightning_norm_eps: PositiveFloat | None = Field(
        default=None,
        description=(
            "Added to the variance in the norm of the output; unless set, norm_eps (MiniMax-01: 1e-6)."
        ),
    )


class RGLRUConfig(BaseModel):
    """The `rg_lru` block: a gated linear recurrence of each channel by itself, behind a convolution.

    Source: De et al. 2024 (Griffin), arXiv 2402.19427, as in RecurrentGemma.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lru_n_blocks: PositiveSize = Field(
        description="Blocks of channels whose gates are computed from each other (RecurrentGemma-2B: 10)."
    )
    lru_block_width: PositiveSize = Field(description="Channels of one block (RecurrentGemma: 256).")
    lru_conv_width: PositiveSize = Field(
        default=4, description="Tokens that the convolution before the recurrence sees."
    )


class RWKVConfig(BaseModel):
    """The `rwkv` block: for each channel a mean of the values so far, weighted by their keys and by how long
    ago they were.

    Source: Peng et al. 2023 (RWKV-4), arXiv 2305.13048.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rwkv_inner_size: PositiveSize = Field(
        description="Channels, each with a decay and a state of its own; as published dim."
    )


class MambaConfig(BaseModel):
    """The `mamba` block: a state space for each channel, with steps, inputs and outputs chosen by the token.

    Source: Gu and Dao 2023 (Mamba), arXiv 2312.00752; norms within it as in Jamba and Falcon Mamba.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    mamba_inner_size: PositiveSize = Field(
        description="Channels, each with a state of its own; as published twice dim."
    )
    mamba_dt_rank: PositiveSize = Field(
        description="Width from which the steps of all channels are projected; as published dim / 16."
    )
    mamba_state_dim: PositiveSize = Field(default=16, description="Elements of the state of one channel.")
    mamba_conv_width: PositiveSize = Field(default=4, description="Tokens that the convolution sees.")
    mamba_conv_bias: bool = Field(default=True, description="Bias on the convolution.")
    mamba_bias: bool = Field(default=False, description="Bias on the projections in and out.")
    mamba_norm: StateNorm = Field(
        default="none",
        description=(
            "RMSNorm on what writes and reads the state and on the steps: scaled (Jamba), or without a scale "
            "(Falcon Mamba)."
        ),
    )
    mamba_norm_eps: PositiveFloat | None = Field(
        default=None,
        description=("Added to the mean square in these norms; unless set, norm_eps (Falcon Mamba: 1e-6)."),
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.mamba_norm_eps is not None and self.mamba_norm == "none":
            raise ValueError(
                f"mamba_norm_eps={self.mamba_norm_eps} needs norms within the mixer; set mamba_norm"
            )
        return self


class Mamba2Config(BaseModel):
    """The `mamba2` block: state spaces whose channels form heads; those of a head decay alike.

    Source: Dao and Gu 2024 (Mamba-2), arXiv 2405.21060.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    mamba2_n_heads: PositiveSize = Field(description="Heads; with their width as published twice dim.")
    mamba2_head_dim: PositiveSize = Field(default=64, description="Channels of one head.")
    mamba2_state_dim: PositiveSize = Field(default=128, description="Elements of the state of one channel.")
    mamba2_n_groups: PositiveSize = Field(
        default=1, description="Groups of heads that write and read their states alike (Nemotron-H: 8)."
    )
    mamba2_conv_width: PositiveSize = Field(default=4, description="Tokens that the convolution sees.")
    mamba2_conv_bias: bool = Field(default=True, description="Bias on the convolution.")
    mamba2_in_bias: bool = Field(default=False, description="Bias on the projection in.")
    mamba2_out_bias: bool = Field(default=False, description="Bias on the projection out.")
    mamba2_norm: GateNorm = Field(
        default="after_gate",
        description=(
            "RMSNorm over the heads of each group after the output was gated, before it, or none (Falcon-H1)."
        ),
    )
    mamba2_multipliers: Annotated[
        tuple[PositiveFloat, ...], Field(strict=False, min_length=5, max_length=5)
    ] = Field(
        default=(1.0,) * 5,
        description=("Factors on what is projected in: gate, input, B, C and step (Falcon-H1)."),
    )
    mamba2_dt_min: NonNegativeFloat = Field(
        default=0.0, description="Shortest step of a token (Nemotron-H: 0.001)."
    )
    mamba2_dt_max: PositiveFloat | None = Field(
        default=None, description="Longest step of a token; unless set, of any length."
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.mamba2_n_heads % self.mamba2_n_groups:
            raise ValueError(
                f"mamba2_n_groups={self.mamba2_n_groups} does not divide "
                f"mamba2_n_heads={self.mamba2_n_heads}; use one of {divisors(self.mamba2_n_heads)}"
            )
        if self.mamba2_dt_max is not None and self.mamba2_dt_max < self.mamba2_dt_min:
            raise ValueError(
                f"mamba2_dt_max={self.mamba2_dt_max} is less than mamba2_dt_min={self.mamba2_dt_min}; "
                "change one of them"
            )
        return self
