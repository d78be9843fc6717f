"""A small model, a frozen generated text and settings that train in a second."""

import random
from pathlib import Path

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults as complete_model
from parambudget.text.corpus import read_corpus
from parambudget.text.token_cache import TokenData, token_data
from parambudget.training.config import TrainConfig

SENTENCE = "the model of one or two layers learns every token and then forgets nothing while its loss falls"
WORDS = SENTENCE.split()


def small_model(**changes: object) -> ModelConfig:
    sizes = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 300,
        "context_length": 16,
    }
    return complete_model(sizes | changes).model


def small_config(**changes: object) -> TrainConfig:
    settings = {
        "steps": 6, "batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 3e-3,
        "final_learning_rate": 1e-5, "warmup_steps": 2, "eval_every": 3, "eval_tokens": 256, "save_every": 3,
        "optimizer": "adamw",  # quicker on matrices this small; the recipe has tests of its own
    }  # fmt: skip
    return TrainConfig.read(settings | changes)


def write_text(folder: Path, n_documents: int = 40, seed: int = 0) -> Path:
    """Documents of random words, the same ones in every version of Python. Those that are there already stay
    untouched: another process may be reading them."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for i in range(n_documents):
        sentences = (" ".join(WORDS[int(draw.random() * len(WORDS))] for _ in range(12)) for _ in range(8))
        path, text = folder / f"{i:03}.txt", ".\n".join(sentences)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return folder


def small_data(folder: Path, vocab_size: int = 300) -> TokenData:
    return token_data(read_corpus(write_text(folder / "text")), vocab_size, cache=folder / "cache")
