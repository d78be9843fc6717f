"""Generate text from a trained model, token by token."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from parambudget._files import read_inside
from parambudget.errors import InputError, without_advice
from parambudget.formats.hf.weights import is_pretrained, load_pretrained
from parambudget.formats.source import load, read_source
from parambudget.formats.unread import explain_checkpoint
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.transformer import Transformer
from parambudget.text.tokenizer import (
    EndOfText,
    TextTokenizer,
    as_text_tokenizer,
    read_pretrained_tokenizer,
)
from parambudget.training.checkpoint import files
from parambudget.training.device import Compute
from parambudget.training.metrics import list_checkpoints
from parambudget.training.run.run_folder import END_OF_TEXT
from parambudget.training.run.same_run import require_own_checkpoint
from parambudget.units import count_phrase

EndReason = Literal["end of text", "max_tokens", "context_length"]


@dataclass(frozen=True)
class SamplingParams:
    """How many tokens to generate, and how each is chosen."""

    max_tokens: int
    temperature: float
    """0 always takes the most likely token."""
    top_k: int | None
    """Sample from the k most likely tokens only; None for all."""
    seed: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(
                f"`temperature` is {self.temperature:g}; use 0 or a finite number above 0, such as 0.8"
            )
        for name, value in (("max_tokens", self.max_tokens), ("top_k", self.top_k)):
            if value is not None and value < 1:
                raise InputError(f"`{name}` is {value}; use a whole number above 0")


@dataclass(frozen=True)
class Generation:
    """A generated text."""

    prompt: str
    text: str
    """The generated text, without the prompt."""
    n_prompt_tokens: int
    n_tokens: int
    ended: EndReason
    seed: int
    files: str


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A trained model with its tokenizer."""

    folder: Path
    module: Transformer
    tokenizer: TextTokenizer
    compute: Compute
    add_special_tokens: bool = False
    """Whether the tokenizer adds its special tokens to a prompt."""


def load_checkpoint(
    path: Path, compute: Compute, on_notice: Callable[[str], None] = lambda _: None
) -> LoadedModel:
    """Load a checkpoint, the newest valid one of a run, or a folder of a Hugging Face model."""
    if not os.path.isfile(path / "state.json") and is_pretrained(path):
        tokenizer = read_pretrained_tokenizer(path)
        module = load_pretrained(path, device=compute.device, on_notice=on_notice)
        return LoadedModel(path, module, tokenizer, compute, add_special_tokens=True)
    folder = _newest_valid_checkpoint(path, on_notice) if os.path.isdir(path / "checkpoints") else path
    if not os.path.isfile(folder / "state.json"):
        if reason := explain_checkpoint(str(path)):
            raise InputError(reason)
        raise InputError(
            f"{path} is not a checkpoint; give the folder of a run, its checkpoints/step-N, or a "
            "Hugging Face folder"
        )
    files.read_state(folder)
    module = Transformer(load(folder / "config.json", {}).model, device=compute.device, dtype=torch.float32)
    files.load_weights(folder, module)
    return LoadedModel(folder, module.eval(), _saved_tokenizer(folder), compute)


def _saved_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of a checkpoint, with the end of text that the run has learned."""
    path = folder / "tokenizer.json"
    try:
        text = read_inside(path).decode()
        if not text:
            raise InputError(
                f"{folder} was trained on tokens without their tokenizer, so there is no text for it; train "
                "with `tokenizer`"
            )
        saved = Tokenizer.from_str(text)
    except InputError:
        raise
    except Exception as error:  # tokenizers raises no narrower class
        raise InputError(f"{path} cannot be read ({error})") from None
    end = read_source(str(folder / "config.json")).provenance.get(END_OF_TEXT)
    return as_text_tokenizer(
        saved, str(path), EndOfText(end, "as in training") if isinstance(end, str) else None
    )


def _newest_valid_checkpoint(run: Path, on_notice: Callable[[str], None]) -> Path:
    """The newest checkpoint of a run whose files match their hashes; if none do, the newest of all."""
    saved = list_checkpoints(run / "checkpoints")
    if not saved:
        raise InputError(f"{run} has no checkpoint yet; wait for its first save")
    for folder in saved:
        try:
            files.read_state(folder)
        except InputError as error:
            on_notice(f"{without_advice(error)}; an older one is used")
            continue
        require_own_checkpoint(run, folder)
        return folder
    return saved[0]


def generate_text(
    loaded: LoadedModel, prompt: str, params: SamplingParams, on_text: Callable[[str], None] = lambda _: None
) -> Generation:
    """Continue the prompt. `on_text` gets the prompt, then each piece of text as soon as it is complete."""
    tokenizer = loaded.tokenizer.tokenizer
    # An empty prompt starts where every document does: after the end-of-text token of another.
    ids = tokenizer.encode(prompt, add_special_tokens=loaded.add_special_tokens).ids or [loaded.tokenizer.end]
    longest = loaded.module.model.longest_generation
    room = longest - len(ids)
    if room < 1:
        raise InputError(
            f"the prompt has {count_phrase(len(ids), 'token')} and context_length={longest:,} "
            "leaves no room for more; give a shorter one"
        )
    on_text(prompt)
    stream, texts, n_tokens = DecodeStream(skip_special_tokens=False), [], 0
    ended: EndReason = "max_tokens" if params.max_tokens <= room else "context_length"
    for token in generate_tokens(loaded, ids, params, min(room, params.max_tokens)):
        n_tokens += 1
        if token == loaded.tokenizer.end:
            ended = "end of text"
            break
        piece = stream.step(tokenizer, token)
        if piece:
            texts.append(piece)
            on_text(piece)
    return Generation(prompt, "".join(texts), len(ids), n_tokens, ended, params.seed, str(loaded.folder))


def generate_tokens(
    loaded: LoadedModel, ids: Sequence[int], params: SamplingParams, n_tokens: int
) -> Iterator[int]:
    """The ids that follow, one by one. Sampled on the CPU, so that equal logits give equal text on any
    device."""
    generator = torch.Generator().manual_seed(params.seed)
    module, compute = loaded.module, loaded.compute
    with torch.inference_mode(), kv_cache(module, len(ids) + n_tokens) as hidden:
        new = torch.tensor([ids])
        for _ in range(n_tokens):
            with compute.autocast():
                logits = module.logits(hidden(new.to(compute.device))[:, -1:])
            # The model may have more rows than the tokenizer has entries; the others stand for no text.
            token = sample_token(logits[0, 0, : loaded.tokenizer.entries].float().cpu(), params, generator)
            yield token
            new = torch.tensor([[token]])


def sample_token(logits_V: Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """Sample an id from its logits."""
    if not bool(torch.isfinite(logits_V).all()):
        raise InputError(
            "the model computes logits that are not finite: its training had diverged; use an earlier "
            "checkpoint"
        )
    if params.temperature == 0:
        return int(logits_V.argmax())
    if params.top_k is not None and params.top_k < len(logits_V):
        top = logits_V.topk(params.top_k)
        logits_V = torch.full_like(logits_V, -torch.inf).scatter(0, top.indices, top.values)
    # The maximum is subtracted because a very low temperature would make logits infinite.
    probabilities = torch.softmax((logits_V - logits_V.max()) / params.temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
