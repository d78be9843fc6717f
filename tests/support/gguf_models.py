"""A small model for every architecture of llama.cpp that models are written as, and a tokenizer for them."""

import random
from pathlib import Path

import torch
from support.tiny_model import built
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.formats.equivalence import Export
from parambudget.formats.gguf.exporter import to_gguf
from parambudget.formats.gguf.vocabulary import gguf_vocabulary
from parambudget.formats.gguf.weights import write_gguf
from parambudget.formats.targets import GGUFDtype
from parambudget.nn.transformer import Transformer
from parambudget.text.tokenizer import TextTokenizer, as_text_tokenizer

TEXTS = (
    "The cat sat on the mat, and the dog lay by the door.",
    "It's 1234567 o'clock; I'll SAY: naïve CaféTerrace\n\n\tindented   text  ",
    "def f(x):\n    return x  # 你好 ünïcödé 🙂 \r\n'S 'll  12 3",
    "   ",
    "",
)
_SIZES = {
    "dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 96, "vocab_size": 320,
    "context_length": 32, "tied": False,
}  # fmt: skip
_LAYERNORM = {"norm": "layernorm", "norm_bias": True}
_PLAIN = _LAYERNORM | {"gated": False, "activation": "gelu_tanh"}
_BIASED = _PLAIN | {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True}
_GEMMA = {"activation": "gelu_tanh", "embedding_multiplier": 8.0, "head_dim": 32}
_CAPPED = {"attention_softcap": 5.0, "logit_softcap": 3.0}
_COHERE = {
    "norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm", "tied": True,
    "logit_multiplier": 0.25, "rotary_interleaved": True,
}  # fmt: skip
_MOE = {"n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 32}
_MLA = {
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "head_dim": 24,
    "n_kv_heads": 4, "rotary_interleaved": True,
}  # fmt: skip
_TURNED = {"rotary_interleaved": True}

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "llama, turned": ("llama", _TURNED | {"tied": True, "head_dim": 32}),
    "llama, biases": ("llama", {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True}),
    "llama, llama3": ("llama", {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_context": 16}),
    "llama, linear": ("llama", {"rope_type": "linear", "rope_factor": 4.0}),
    "llama, yarn": ("llama", {
        "rope_type": "yarn", "rope_factor": 4.0, "rope_original_context": 16, "rope_attention_factor": 1.0,
        "rope_beta_fast": 16.0,
    }),
    "qwen2": ("qwen2", {"qkv_bias": True, "head_bias": True}),
    "qwen3": ("qwen3", {"qk_norm": "head"}),
    "qwen3, turned": ("qwen3", _TURNED | {"qk_norm": "head", "head_dim": 32, "tied": True, "qkv_bias": True}),
    "gpt2": ("gpt2", _BIASED | {"position": "learned", "tied": True}),
    "gptneox": ("gptneox", _BIASED | _TURNED | {
        "block": "parallel", "rotary_fraction": 0.25, "activation": "gelu",
    }),
    "gptneox, sequential": ("gptneox", _BIASED | {"rotary_fraction": 0.25, "n_kv_heads": 4}),
    "olmo2": ("olmo2", {"norm_placement": "reordered", "qk_norm": "full"}),
    "olmo2, windows": ("olmo2", _TURNED | {
        "norm_placement": "reordered", "qk_norm": "full", "window": 8,
        "window_pattern": ("local", "local", "global"),
    }),
    "gemma": ("gemma", _GEMMA | {"tied": True}),
    "gemma2": ("gemma2", _GEMMA | _CAPPED | {
        "tied": True, "norm_placement": "sandwich", "window": 8, "window_pattern": ("local", "global"),
    }),
    "gemma3": ("gemma3", _GEMMA | {
        "tied": True, "norm_placement": "sandwich", "qk_norm": "head", "window": 8,
        "window_pattern": ("local", "global"), "rope_theta_local": 500.0,
    }),
    "gemma3, linear": ("gemma3", _GEMMA | {
        "norm_placement": "sandwich", "qk_norm": "head", "logit_softcap": 3.0, "rope_type": "linear",
        "rope_factor": 4.0,
    }),
    "phi3": ("phi3", {"rotary_fraction": 0.5}),
    "phi3, turned": ("phi3", _TURNED | {"rotary_fraction": 0.5, "qkv_bias": True, "tied": True}),
    "phi2": ("phi2", _BIASED | {"block": "parallel_shared_norm", "head_bias": True, "rotary_fraction": 0.5}),
    "starcoder2": ("starcoder2", _BIASED | {"tied": True}),
    "bloom": ("bloom", _BIASED | {
        "position": "alibi", "embedding_norm": True, "dim": 96, "n_heads": 6, "n_kv_heads": 6,
    }),
    "mpt": ("mpt", _PLAIN | {"position": "alibi", "norm_bias": False, "qkv_clip": 0.3}),
    "falcon": ("falcon", _PLAIN | {
        "block": "parallel_shared_norm", "tied": True, "n_kv_heads": 1, "activation": "gelu",
    }),
    "stablelm": ("stablelm", _LAYERNORM | {"rotary_fraction": 0.25, "qkv_bias": True}),
    "stablelm, parallel": ("stablelm", _LAYERNORM | {
        "rotary_fraction": 0.25, "block": "parallel_shared_norm",
    }),
    "nemotron": ("nemotron", _BIASED | {"activation": "relu2", "rotary_fraction": 0.5}),
    "olmo": ("olmo", {"norm": "layernorm", "norm_bias": False, "norm_weight": False, "qkv_clip": 0.5}),
    "command-r": ("command-r", _COHERE),
    "cohere2": ("cohere2", _COHERE | {
        "window": 8, "window_pattern": ("local", "local", "local", "global"),
        "rotary_pattern": ("rotary", "rotary", "rotary", "none"),
    }),
    "smollm3": ("smollm3", {"rotary_pattern": ("rotary", "rotary", "rotary", "none"), "tied": True}),
    "granite": ("granite", {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1,
        "logit_multiplier": 0.25, "tied": True,
    }),
    "mixtral": ("llama (experts)", _MOE),
    "mixtral, fused": ("llama (experts)", _MOE | {"fused_experts": True, "head_dim": 32, "qkv_bias": True}),
    "qwen3moe": ("qwen3moe", _MOE | {"qk_norm": "head"}),
    "qwen2moe": ("qwen2moe", _MOE | {
        "norm_expert_weights": False, "shared_expert_gate": True, "n_shared_experts": 1,
        "shared_intermediate_size": 48, "qkv_bias": True,
    }),
    "olmoe": ("olmoe", _MOE | {"norm_expert_weights": False, "qk_norm": "full", "n_kv_heads": 4}),
    "deepseek2": ("deepseek2", _MOE | _MLA | {
        "q_lora_rank": 24, "n_shared_experts": 1, "n_first_dense": 1,
    }),
    "deepseek2, sigmoid": ("deepseek2", _MOE | _MLA | {
        "n_shared_experts": 2, "router_scores": "sigmoid", "correction_bias": True, "routing_multiplier": 2.5,
    }),
}  # fmt: skip
"""The architecture that is chosen, and the model; each row has a choice that no other row has."""


def case_model(fields: dict[str, object]) -> ModelConfig:
    return pb.model(**_SIZES | fields)


def random_module(model: ModelConfig) -> Transformer:
    """No tensor is as it is initialized: a norm that is left out would not show."""
    module, generator = built(model).eval(), torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        tensor.normal_(0, 0.15, generator=generator)
        if name.endswith("norm.weight"):
            tensor.add_(1)
    return module


def case_tokens(model: ModelConfig) -> torch.Tensor:
    """One sequence, almost as long as the context; longer than every window."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(300, (1, model.context_length - 4), generator=generator)


def byte_level_bpe(
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None, *, ignore_merges: bool = False
) -> Tokenizer:
    """A BPE with 300 entries, learned from words at random."""
    draw = random.Random(0)
    words = " ".join(TEXTS).split()
    lines = [" ".join(draw.choices(words, k=30)) for _ in range(200)]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def own_tokenizer() -> TextTokenizer:
    return as_text_tokenizer(byte_level_bpe(), "own")


def write_case(
    path: Path, module: Transformer, dtype: GGUFDtype = "f32", tokenizer: TextTokenizer | None = None
) -> tuple[Export, tuple[str, ...]]:
    """Write a module as a GGUF file; what was made of it, and the notes."""
    made = to_gguf(module.model)
    vocabulary = gguf_vocabulary(tokenizer or own_tokenizer(), module.model.vocab_size)
    return made, write_gguf(path, module, made, vocabulary, dtype, "case")
