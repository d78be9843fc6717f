"""Text from a trained model, token by token."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from parambudget.errors import InputError
from parambudget.formats.hf.weights import is_pretrained, load_pretrained
from parambudget.formats.source import load
from parambudget.nn.kv_cache import remembering
from parambudget.nn.transformer import Transformer
from parambudget.text.tokenizer import (
    TextTokenizer,
    as_text_tokenizer,
    read_pretrained_tokenizer,
)
from parambudget.training.checkpoint import files
from parambudget.training.device import Compute

Ended = Literal["end of text", "max_tokens", "context_length"]


@dataclass(frozen=True)
class Drawing:
    """How the next token is chosen."""

    max_tokens: int
    temperature: float
    """0 takes the likeliest."""
    top_k: int | None
    """Only the likeliest k are drawn from."""
    seed: int


@dataclass(frozen=True)
class Sample:
    """A generated text."""

    prompt: str
    text: str
    """What was generated, without the prompt."""
    n_prompt_tokens: int
    n_tokens: int
    ended: Ended
    seed: int
    files: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and its tokenizer, ready to write."""

    folder: Path
    module: Transformer
    tokenizer: TextTokenizer
    compute: Compute
    framed: bool = False
    """Whether prompts begin with what the tokenizer puts in front of a text."""


def load_checkpoint(
    path: Path, compute: Compute, on_notice: Callable[[str], None] = lambda _: None
) -> Loaded:
    """A checkpoint, the newest one of a run that is whole, or a folder of a Hugging Face model."""
    if not (path / "state.json").is_file() and is_pretrained(path):
        tokenizer = read_pretrained_tokenizer(path)
        module = load_pretrained(path, device=compute.device, on_notice=on_notice)
        return Loaded(path, module, tokenizer, compute, framed=True)
    folder = _newest_whole(path, on_notice) if (path / "checkpoints").is_dir() else path
    if not (folder / "state.json").is_file():
        raise InputError(
            f"{path} is no checkpoint; give a run's folder or its checkpoints/step-N, or a folder of "
            "Hugging Face"
        )
    module = Transformer(load(folder / "config.json", {}).model, device=compute.device, dtype=torch.float32)
    files.load_weights(folder, module)
    try:
        held = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises no narrower class
        raise InputError(f"{folder / 'tokenizer.json'} cannot be read ({error})") from None
    return Loaded(folder, module.eval(), as_text_tokenizer(held, str(folder / "tokenizer.json")), compute)


def _newest_whole(run: Path, on_notice: Callable[[str], None]) -> Path:
    """The newest checkpoint of a run that is as it was written; the newest of all if none is."""
    saved = files.all_in(run / "checkpoints")
    if not saved:
        raise InputError(f"{run} has no checkpoint yet; wait for its first save")
    for folder in saved:
        try:
            files.read_state(folder)
        except InputError as error:
            on_notice(f"{str(error).split(';')[0]}; an older one is taken")
            continue
        return folder
    return saved[0]


def sample(
    loaded: Loaded, prompt: str, drawing: Drawing, on_text: Callable[[str], None] = lambda _: None
) -> Sample:
    """Go on with the prompt; `on_text` hears it, and then each piece of text as soon as it is complete."""
    tokenizer = loaded.tokenizer.tokenizer
    # An empty prompt begins where every document does: behind the end of another.
    ids = tokenizer.encode(prompt, add_special_tokens=loaded.framed).ids or [loaded.tokenizer.end]
    room = loaded.module.model.context_length - len(ids)
    if room < 1:
        raise InputError(
            f"the prompt has {len(ids):,} tokens and context_length={loaded.module.model.context_length:,} "
            "leaves no room behind it; give a shorter one"
        )
    on_text(prompt)
    stream, texts, n_tokens = DecodeStream(skip_special_tokens=False), [], 0
    ended: Ended = "max_tokens" if drawing.max_tokens <= room else "context_length"
    for token in generate(loaded, ids, drawing, min(room, drawing.max_tokens)):
        n_tokens += 1
        if token == loaded.tokenizer.end:
            ended = "end of text"
            break
        piece = stream.step(tokenizer, token)
        if piece:
            texts.append(piece)
            on_text(piece)
    return Sample(prompt, "".join(texts), len(ids), n_tokens, ended, drawing.seed, str(loaded.folder))


def generate(loaded: Loaded, ids: Sequence[int], drawing: Drawing, n_tokens: int) -> Iterator[int]:
    """The ids that follow, one by one; drawn on the CPU: equal logits give the same text on every device."""
    generator = torch.Generator().manual_seed(drawing.seed)
    module, compute = loaded.module, loaded.compute
    with torch.inference_mode(), remembering(module, len(ids) + n_tokens) as hidden:
        new = torch.tensor([ids])
        for _ in range(n_tokens):
            with compute.autocast():
                logits = module.logits(hidden(new.to(compute.device))[:, -1:])
            # The model may have more rows than the tokenizer has entries: those are no text.
            token = drawn(logits[0, 0, : loaded.tokenizer.entries].float().cpu(), drawing, generator)
            yield token
            new = torch.tensor([[token]])


def drawn(logits_V: Tensor, drawing: Drawing, generator: torch.Generator) -> int:
    """An id from its logits."""
    if drawing.temperature == 0:
        return int(logits_V.argmax())
    if drawing.top_k is not None and drawing.top_k < len(logits_V):
        kept = logits_V.topk(drawing.top_k)
        logits_V = torch.full_like(logits_V, -torch.inf).scatter(0, kept.indices, kept.values)
    # Less the greatest: a very low temperature would make them infinite.
    probabilities = torch.softmax((logits_V - logits_V.max()) / drawing.temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
