"""Published decoders with state spaces: first what a family shares, then one row per model.

A row gives what differs from the defaults of `arch.defaults.with_defaults`. Every count is that of the
instantiated Hugging Face class (transformers 5, unique parameters; active: without the routed experts that a
token does not use), never ours.
"""

from typing import Any, Final

from parambudget.arch.presets.row import Preset, hybrid_family

_ALONE: Final[dict[str, Any]] = dict(n_heads=1, position="none", ffn_pattern=("none",))
_MAMBA: Final[dict[str, Any]] = _ALONE | dict(mixer_pattern=("mamba",), mamba_state_dim=16)
_MAMBA2: Final[dict[str, Any]] = _ALONE | dict(mixer_pattern=("mamba2",), mamba2_state_dim=128)


def _widths(dim: int) -> dict[str, Any]:
    """The sizes of Mamba, which follow from the width of the model."""
    return dict(mamba_inner_size=2 * dim, mamba_dt_rank=-(-dim // 16))


def _layers(letters: str) -> dict[str, Any]:
    """What each layer of Nemotron-H has, as its configs spell it: Mamba-2 (M), attention (*), experts (E) or
    an FFN (-)."""
    mixers = {"M": "mamba2", "*": "attention"}
    return dict(
        n_layers=len(letters), mixer_pattern=tuple(mixers.get(letter, "none") for letter in letters),
        ffn_pattern=tuple("none" if letter in mixers else "ffn" for letter in letters),
    )  # fmt: skip


def _every_tenth(n_layers: int) -> dict[str, Any]:
    """Granite 4: attention in the sixth of every ten layers, Mamba-2 in the others."""
    mixers = ("attention" if layer % 10 == 5 else "mamba2" for layer in range(min(n_layers, 10)))
    return dict(n_layers=n_layers, mixer_pattern=tuple(mixers))


def _shared_blocks(mixer: str, n_layers: int, *uses: int) -> dict[str, Any]:
    """Zamba: a shared block of attention and an FFN in those layers, in front of the mixer that all have."""
    layers = range(n_layers)
    return dict(
        n_layers=n_layers,
        mixer_pattern=tuple(f"attention+{mixer}" if layer in uses else mixer for layer in layers),
        ffn_pattern=tuple("ffn" if layer in uses else "none" for layer in layers),
    )


def _rwkv(dim: int, n_layers: int) -> dict[str, Any]:
    """RWKV-4: all widths follow from that of the model."""
    return dict(dim=dim, n_layers=n_layers, rwkv_inner_size=dim, intermediate_size=4 * dim)


# fmt: off
_mamba = hybrid_family("state-spaces", "MambaForCausalLM", "arXiv 2312.00752",
    **_MAMBA, vocab_size=50280, tied=True)
_mamba2 = hybrid_family("state-spaces", "Mamba2ForCausalLM", "arXiv 2405.21060",
    **_MAMBA2, vocab_size=50288, tied=True)
_codestral = hybrid_family("mistralai", "Mamba2ForCausalLM", "model card",
    **_MAMBA2, mamba2_n_groups=8, vocab_size=32768, tied=False)
_rwkv4 = hybrid_family("RWKV", "RwkvForCausalLM", "arXiv 2305.13048",
    mixer_pattern=("rwkv",), channel_mix=True, gated=False, activation="relu2", n_heads=1, position="none",
    norm="layernorm", embedding_norm=True, vocab_size=50277, tied=False)
_falcon_mamba = hybrid_family("tiiuae", "FalconMambaForCausalLM", "arXiv 2410.05355",
    **_MAMBA, mamba_norm="unscaled", mamba_norm_eps=1e-6, vocab_size=65024, tied=False)
_falcon_h1 = hybrid_family("tiiuae", "FalconH1ForCausalLM", "arXiv 2507.22448",
    mixer_pattern=("attention+mamba2",), mamba2_norm="none", rope_theta=1e11, tied=False)
_bamba = hybrid_family("ibm-ai-platform", "BambaForCausalLM", "model card",
    n_heads=32, n_kv_heads=8, rotary_fraction=0.5, vocab_size=128256, tied=False)
_jamba = hybrid_family("ai21labs", "JambaForCausalLM", "arXiv 2403.19887, 2408.12570",
    mixer_pattern=("mamba",) * 4 + ("attention",) + ("mamba",) * 3, moe_pattern=("dense", "experts"),
    position="none", mamba_norm="scaled", n_experts=16, n_experts_per_token=2, norm_expert_weights=False,
    norm_eps=1e-6, vocab_size=65536, context_length=262144, tied=False)
_granite = hybrid_family("ibm-granite", "GraniteMoeHybridForCausalLM", "model card",
    unsupported=("factors on embeddings, branches, scores and logits",), position="none",
    vocab_size=100352, context_length=131072, tied=True)
_nemotron = hybrid_family("nvidia", "NemotronHForCausalLM", "arXiv 2504.03624, 2508.14444, 2512.20848",
    position="none", gated=False, activation="relu2", head_dim=128, mamba2_n_groups=8, mamba2_dt_min=0.001,
    vocab_size=131072, tied=False)
_SHARED: Final[dict[str, Any]] = dict(activation="gelu", vocab_size=32000, context_length=4096, tied=True)
_zamba = hybrid_family("Zyphra", "ZambaForCausalLM", "arXiv 2405.16712",
    unsupported=("blocks of attention and an FFN that several layers share", "state spaces in heads"),
    **_SHARED, n_shared_blocks=1, position="none", mamba_state_dim=16)
_zamba2 = hybrid_family("Zyphra", "Zamba2ForCausalLM", "arXiv 2411.15242",
    unsupported=("blocks of attention and an FFN that several layers share",),
    **_SHARED, n_shared_blocks=2, shared_adapter_rank=128, n_heads=32, mamba2_state_dim=64,
    mamba2_dt_min=0.001)
_EXPERTS: Final[dict[str, Any]] = dict(
    router_scores="sigmoid", correction_bias=True, n_shared_experts=1, n_kv_heads=2, context_length=262144)

ROWS: Final[tuple[Preset, ...]] = (
    # name  repository  parameters  active, with experts
    _mamba("mamba-130m", "mamba-130m-hf", 129_135_360, n_layers=24, dim=768, **_widths(768)),
    _mamba("mamba-370m", "mamba-370m-hf", 371_516_416, n_layers=48, dim=1024, **_widths(1024)),
    _mamba("mamba-790m", "mamba-790m-hf", 793_204_224, n_layers=48, dim=1536, **_widths(1536)),
    _mamba("mamba-1.4b", "mamba-1.4b-hf", 1_372_178_432, n_layers=48, dim=2048, **_widths(2048)),
    _mamba("mamba-2.8b", "mamba-2.8b-hf", 2_768_345_600, n_layers=64, dim=2560, **_widths(2560)),
    _mamba2("mamba2-130m", "mamba2-130m", 128_989_632, n_layers=24, dim=768, mamba2_n_heads=24),
    _mamba2("mamba2-370m", "mamba2-370m", 368_346_624, n_layers=48, dim=1024, mamba2_n_heads=32),
    _mamba2("mamba2-780m", "mamba2-780m", 780_161_280, n_layers=48, dim=1536, mamba2_n_heads=48),
    _mamba2("mamba2-1.3b", "mamba2-1.3b", 1_343_757_312, n_layers=48, dim=2048, mamba2_n_heads=64),
    _mamba2("mamba2-2.7b", "mamba2-2.7b", 2_702_599_680, n_layers=64, dim=2560, mamba2_n_heads=80),
    _codestral("mamba-codestral-7b", "Mamba-Codestral-7B-v0.1", 7_285_403_648,
               n_layers=64, dim=4096, mamba2_n_heads=128),
    _falcon_mamba("falcon-mamba-7b", "falcon-mamba-7b", 7_272_665_088, n_layers=64, dim=4096,
                  **_widths(4096)),
    _falcon_h1("falcon-h1-0.5b", "Falcon-H1-0.5B-Base", 521_411_104,
               n_layers=36, dim=1024, n_heads=8, n_kv_heads=2, head_dim=64, intermediate_size=2048,
               mamba2_n_heads=24, vocab_size=32784, context_length=16384,
               embedding_multiplier=5.656854249492381, logit_multiplier=0.0390625,
               attention_multiplier=0.39062499999999994 / 8, attention_out_multiplier=0.9375,
               mixer_in_multiplier=1.25, mixer_out_multiplier=0.23570226039551587,
               ffn_gate_multiplier=0.8838834764831844, ffn_out_multiplier=0.5859375,
               mamba2_multipliers=(0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738)),
    _rwkv4("rwkv-4-169m", "rwkv-4-169m-pile", 169_342_464, **_rwkv(768, 12)),
    _rwkv4("rwkv-4-430m", "rwkv-4-430m-pile", 430_397_440, **_rwkv(1024, 24)),
    _rwkv4("rwkv-4-1.5b", "rwkv-4-1b5-pile", 1_515_106_304, **_rwkv(2048, 24)),
    _rwkv4("rwkv-4-3b", "rwkv-4-3b-pile", 2_984_627_200, **_rwkv(2560, 32)),
    _rwkv4("rwkv-4-7b", "rwkv-4-7b-pile", 7_392_649_216, **_rwkv(4096, 32)),
    _rwkv4("rwkv-4-14b", "rwkv-4-14b-pile", 14_148_597_760, **_rwkv(5120, 40)),
    _bamba("bamba-9b", "Bamba-9B", 9_780_235_392, dim=4096, n_layers=32, intermediate_size=14336,
           mixer_pattern=tuple("attention" if layer in (9, 18, 27) else "mamba2" for layer in range(32)),
           mamba2_n_heads=128, context_length=262144),
    _jamba("jamba-v0.1", "Jamba-v0.1", 51_570_323_328, 12_110_311_296,
           n_layers=32, dim=4096, n_heads=32, n_kv_heads=8, intermediate_size=14336,
           expert_intermediate_size=14336, **_widths(4096)),
    _jamba("jamba-1.5-large", "AI21-Jamba-Large-1.5", 398_555_145_696, 94_149_338_592,
           n_layers=72, dim=8192, n_heads=64, n_kv_heads=8, intermediate_size=24576,
           expert_intermediate_size=24576, **_widths(8192)),
    _granite("granite-4.0-h-small", "granite-4.0-h-small", 32_207_337_984, 8_803_121_664, **_every_tenth(40),
             dim=4096, n_heads=32, n_kv_heads=8, n_experts=72, n_experts_per_token=10,
             expert_intermediate_size=768,
             n_shared_experts=1, shared_intermediate_size=1536, mamba2_n_heads=128),
    _granite("granite-4.0-h-tiny", "granite-4.0-h-tiny", 6_939_037_248, 1_465_470_528, **_every_tenth(40),
             dim=1536, n_heads=12, n_kv_heads=4, n_experts=64, n_experts_per_token=6,
             expert_intermediate_size=512, n_shared_experts=1, shared_intermediate_size=1024,
             mamba2_n_heads=48),
    _nemotron("nemotron-h-8b", "Nemotron-H-8B-Base-8K", 8_100_852_736,
              **_layers("M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"), dim=4096, n_heads=32,
              n_kv_heads=8, intermediate_size=21504, mamba2_n_heads=128, context_length=8192),
    _nemotron("nemotron-nano-9b-v2", "NVIDIA-Nemotron-Nano-9B-v2", 8_888_227_328,
              **_layers("M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"), dim=4480, n_heads=40,
              n_kv_heads=8, intermediate_size=15680, mamba2_n_heads=128, mamba2_head_dim=80,
              context_length=131072),
    _nemotron("nemotron-3-nano-30b-a3b", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31_577_937_344, 3_580_073_408,
              **_layers("MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"), **_EXPERTS, dim=2688,
              n_heads=32, n_experts=128, n_experts_per_token=6, expert_intermediate_size=1856,
              shared_intermediate_size=3712, routing_multiplier=2.5, mamba2_n_heads=64),
    _nemotron("nemotron-3-super-120b-a12b", "NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 120_668_687_360,
              12_770_216_960,
              **_layers("MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*"
                        "EMEMEMEME"), **_EXPERTS, dim=4096, n_heads=32, n_experts=512, n_experts_per_token=22,
              expert_intermediate_size=2688, shared_intermediate_size=5376, expert_latent_size=1024,
              routing_multiplier=5.0, mamba2_n_heads=128),
    _zamba("zamba-7b-v1", "Zamba-7B-v1", 7_232_490_496, **_shared_blocks("mamba", 76, 2, *range(7, 76, 6)),
           dim=3712, n_heads=16, head_dim=464, intermediate_size=14848, mamba_inner_size=7424,
           mamba_dt_rank=232),
    _zamba2("zamba2-2.7b", "Zamba2-2.7B", 2_662_214_560,
            **_shared_blocks("mamba2", 54, 6, 12, 18, 24, 30, 36, 42, 47, 51), dim=2560, head_dim=160,
            intermediate_size=10240, position="none", mamba2_n_heads=80),
)
# fmt: on
