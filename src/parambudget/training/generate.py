"""Generate text from a trained model, token by token."""

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from parambudget._files import read_inside
from parambudget._json_types import SchemaOf
from parambudget._no_effect import NoEffect, without_effect
from parambudget.errors import InputError, without_advice
from parambudget.formats.hf.weights import is_pretrained, load_pretrained
from parambudget.formats.source import load, read_source
from parambudget.formats.unread import explain_checkpoint
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.mixers.implementations import implementation_notice, mixer_implementations
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

EndReason = Literal["end of text", "max_tokens"]


@dataclass(frozen=True)
class SamplingParams:
    """How many tokens to generate, and how each is chosen."""

    max_tokens: int
    temperature: float
    """0 always takes the most likely token."""
    top_k: int | None
    """Sample from the k most likely tokens only; None for all."""
    seed: int
    top_p: float | None = None
    """Sample from the fewest most likely tokens whose probabilities sum to this; None for all."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(
                f"`temperature` is {self.temperature:g}; use 0 or a finite number above 0, such as 0.8"
            )
        for name, value in (("max_tokens", self.max_tokens), ("top_k", self.top_k)):
            if value is not None and value < 1:
                raise InputError(f"`{name}` is {value}; use a whole number above 0")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"`top_p` is {self.top_p:g}; use a share above 0 and at most 1, such as 0.95")


UNSAID: Final = {"temperature": 0.8, "top_k": None, "top_p": None, "seed": 0, "num_samples": None}
"""The defaults of `pb.generate` and `parambudget sample`: what is not given."""
_NO_EFFECT: Final[tuple[NoEffect[SamplingParams], ...]] = (
    NoEffect(
        ("top_k", "top_p", "seed"),
        lambda params: params.temperature == 0,
        "with `temperature=0` the most likely token is always taken",
    ),
    NoEffect(
        ("temperature", "top_p", "seed"),
        lambda params: params.top_k == 1,
        "with `top_k=1` the most likely token is always taken",
    ),
    NoEffect(
        ("num_samples",),
        lambda params: params.temperature == 0 or params.top_k == 1,
        "the most likely token is always taken, so all texts of a prompt are the same",
    ),
)


def params_without_effect(params: SamplingParams, num_samples: int | None) -> Iterator[str]:
    """A sentence about what was given, differs from its default and changes nothing beside the rest."""
    asked = {**vars(params), "num_samples": None if num_samples == 1 else num_samples}
    given = {name: asked[name] for name, default in UNSAID.items() if asked[name] != default}
    return without_effect(_NO_EFFECT, given, params)


@dataclass(frozen=True)
class Generation:
    """A generated text."""

    prompt: str
    """What was continued."""
    text: str
    """The generated text, without the prompt."""
    n_prompt_tokens: int
    """Tokens of the prompt."""
    n_tokens: int
    """Tokens that were generated."""
    ended: EndReason
    """Why the text ends there."""
    seed: int
    """Of the sampling."""
    files: str
    """The checkpoint that was read."""
    n_dropped: int = 0
    """Tokens at the start of prompt and text that the last token was generated without: they no longer fit
    into the context."""

    def as_dict(self) -> "GenerationDocument":
        """Plain JSON values."""
        return asdict(self)


GenerationDocument = Annotated[dict[str, Any], SchemaOf(Generation)]


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
        _name_kernels(module, compute, on_notice)
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
    _name_kernels(module, compute, on_notice)
    return LoadedModel(folder, module.eval(), _saved_tokenizer(folder), compute)


def _name_kernels(module: Transformer, compute: Compute, on_notice: Callable[[str], None]) -> None:
    """Say so where another package computes a part of the mixers."""
    mixers = mixer_implementations(module, compute.device)
    if any(how.version is not None for how in mixers.values()):
        on_notice(implementation_notice(mixers))


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
    on_text(prompt)
    stream, texts, n_tokens = DecodeStream(skip_special_tokens=False), [], 0
    ended: EndReason = "max_tokens"
    with closing(generate_tokens(loaded, ids, params)) as tokens:
        for token in tokens:
            n_tokens += 1
            if token == loaded.tokenizer.end:
                ended = "end of text"
                break
            piece = stream.step(tokenizer, token)
            if piece:
                texts.append(piece)
                on_text(piece)
    n_dropped = context_start(len(ids), n_tokens - 1, loaded.module.model.longest_generation)
    return Generation(
        prompt, "".join(texts), len(ids), n_tokens, ended, params.seed, str(loaded.folder), n_dropped
    )


def generate_texts(
    loaded: LoadedModel, prompts: Iterable[str], params: SamplingParams, num_samples: int = 1,
    on_text: Callable[[str], None] = lambda _: None,
) -> Iterator[Generation]:  # fmt: skip
    """Continue each prompt so many times; the i-th text is sampled with the seed + i."""
    if num_samples < 1:
        raise InputError(f"`num_samples` is {num_samples}; use a whole number above 0")
    repeated = (prompt for prompt in prompts for _ in range(num_samples))
    for i, prompt in enumerate(repeated):
        yield generate_text(loaded, prompt, replace(params, seed=params.seed + i), on_text)


def context_start(n_prompt: int, n_generated: int, longest: int) -> int:
    """Which token is the first that the model sees when it has generated so many: 0 as long as all fit.

    The context slides in jumps: when one token more does not fit, the last three quarters of the context
    remain, and what the model has computed of them is computed anew. Each token is therefore what the model
    itself gives for the tokens that it sees, and the recomputation costs 3 tokens read per token generated.
    """
    remaining = max(1, longest - max(1, longest // 4))
    start = n_prompt - remaining if n_prompt > longest else 0
    jump, excess = longest + 1 - remaining, n_prompt + n_generated - start - longest
    return start + max(0, -(-excess // jump)) * jump


def generate_tokens(loaded: LoadedModel, ids: Sequence[int], params: SamplingParams) -> Generator[int]:
    """The `max_tokens` ids that follow, one by one. Sampled on the CPU, so that equal logits give equal text
    on any device. Beyond the model's context they follow from the last tokens, see `context_start`."""
    generator = torch.Generator().manual_seed(params.seed)
    module, compute = loaded.module, loaded.compute
    longest, tokens, n_generated = module.model.longest_generation, list(ids), 0
    while n_generated < params.max_tokens:
        start = context_start(len(ids), n_generated, longest)
        new = torch.tensor([tokens[start:]])
        capacity = min(longest, len(tokens) - start + params.max_tokens - n_generated)
        with torch.inference_mode(), kv_cache(module, capacity) as hidden:
            while n_generated < params.max_tokens and start == context_start(len(ids), n_generated, longest):
                with compute.autocast():
                    logits = module.logits(hidden(new.to(compute.device))[:, -1:])
                # The model may have more rows than the tokenizer has entries; the others stand for no text.
                usable_V = logits[0, 0, : loaded.tokenizer.entries].float().cpu()
                token = sample_token(usable_V, params, generator)
                tokens.append(token)
                n_generated += 1
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
    probabilities_V = torch.softmax((logits_V - logits_V.max()) / params.temperature, dim=-1)
    if params.top_p is not None and params.top_p < 1:
        probabilities_V = _nucleus(probabilities_V, params.top_p)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def _nucleus(probabilities_V: Tensor, top_p: float) -> Tensor:
    """The probabilities with 0 in place of those that are not among the fewest that sum to `top_p`.

    Source: Holtzman et al. 2020, arXiv 1904.09751.
    """
    largest = probabilities_V.sort(descending=True)
    before = largest.values.cumsum(0) - largest.values
    return probabilities_V.index_fill(0, largest.indices[before >= top_p], 0.0)
