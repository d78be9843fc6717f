"""One small model for the tests that need any model, and what to do with a model."""

import torch

from parambudget.arch.config import ModelConfig
from parambudget.nn.transformer import Transformer

SMALL = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, intermediate_size=48,
    vocab_size=50, context_length=12,
)  # fmt: skip


def built(model: ModelConfig, seed: int = 0) -> Transformer:
    module = Transformer(model)
    module.init_weights(torch.Generator().manual_seed(seed))
    return module


def random_tokens(model: ModelConfig) -> torch.Tensor:
    shape = (2, min(32, model.context_length))
    return torch.randint(model.vocab_size, shape, generator=torch.Generator().manual_seed(1))
