"""The model card of an exported folder: a README.md with what the run's own records say, and nothing else.

What the records do not have is left out. A hub reads the front matter; a license and a language are for the
person who publishes the model to add.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from parambudget._files import read_inside
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token, training_flops
from parambudget.cost.params import count
from parambudget.errors import InputError
from parambudget.formats.equivalence import Export
from parambudget.formats.targets import ExportTarget
from parambudget.text.corpus import is_built_in
from parambudget.text.forms import HUB_PREFIX
from parambudget.training.evaluation.results import Evaluation, read_evaluations
from parambudget.training.metrics import (
    METRICS,
    Run,
    RunConfigDocument,
    TrainResult,
    parse_rows,
    read_document,
)
from parambudget.units import FULL_CONVENTION, count_phrase, format_count, format_seconds

CARD: Final = "README.md"
TOKENIZER_OF_ITS_OWN: Final = ("qwen2",)
"""Classes for which `AutoTokenizer` of transformers 5 splits text by rules of its own, whatever the files
say.

Source: transformers 5.24, models/auto/tokenization_auto.py, MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.
"""
_SEAL: Final = re.compile(r"\n<!-- parambudget model card ([0-9a-f]{64}): [^\n]* -->\n\Z")
_SEAL_TEXT: Final = "an export replaces this file unless it was edited"

_FIGURES: Final = {
    "acc": "accuracy", "acc_norm": "accuracy by length", "loss": "loss", "bits_per_byte": "bits per byte"
}  # fmt: skip

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class CardSubject:
    """What a card is about, and how the tool that it was exported for loads it."""

    library: str
    """The hub's word for the tool."""
    model_type: str
    """The tool's word for the architecture."""
    usage: str
    """A block of code or a command, in Markdown."""
    tags: tuple[str, ...] = ()


def card_subject(to: ExportTarget, made: Export, *, has_weights: bool = False) -> CardSubject:
    """What a card says about an export for that tool."""
    if to == "hf":
        tokenizer = "PreTrainedTokenizerFast" if made.name in TOKENIZER_OF_ITS_OWN else "AutoTokenizer"
        code = _TRANSFORMERS.format(tokenizer=tokenizer) if has_weights else _TRANSFORMERS_CONFIG
        return CardSubject("transformers", made.name, _code(code, "python"))
    if to == "gguf":
        command = f"llama-completion -m {made.file} -p 'Once upon a time'"
        return CardSubject("gguf", made.document["general.architecture"], _code(command), ("gguf",))
    if to == "litgpt":
        return CardSubject("litgpt", made.name, _code(_LITGPT.format(file=made.file), "python"))
    if to == "torchtitan":
        start = "torchrun --nproc_per_node N -m torchtitan.train --module torchtitan_config --config config"
        return CardSubject("torchtitan", made.name, _code(start))
    command = f"torchrun ... pretrain_gpt.py $(cat {made.file}) --micro-batch-size ..."
    return CardSubject("megatron-lm", made.name, _code(command))


_TRANSFORMERS: Final = """from transformers import AutoModelForCausalLM, {tokenizer}

folder = "."  # this one, or its name on the hub
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = {tokenizer}.from_pretrained(folder)"""
_TRANSFORMERS_CONFIG: Final = """from transformers import AutoConfig, AutoModelForCausalLM

model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained("."))"""
_LITGPT: Final = """import litgpt

model = litgpt.GPT(litgpt.Config.from_file("{file}"))"""


def _code(text: str, language: str = "") -> str:
    return f"```{language}\n{text}\n```"


@dataclass(frozen=True)
class TrainingRecord:
    """What a checkpoint says about its training."""

    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    run: Run
    """Its updates up to the checkpoint."""
    device: str | None = None
    evaluations: tuple[Evaluation, ...] = ()


def read_training_record(checkpoint: Path, model: ModelConfig) -> TrainingRecord | None:
    """The records in a checkpoint and beside it; None for a folder of another kind.

    The device and evaluations are in the folder of the run, if the checkpoint still is.
    """
    if not (checkpoint / "state.json").is_file() or not (checkpoint / METRICS).is_file():
        return None
    document: RunConfigDocument = read_document(checkpoint / "config.json")
    settings, provenance = document["train"], document["provenance"]
    steps = tuple(parse_rows(read_inside(checkpoint / METRICS), checkpoint / METRICS))
    planned = settings.get("steps")
    record = TrainingRecord(
        settings, provenance,
        Run(checkpoint, model, steps, planned if isinstance(planned, int) else None, summary=None),
    )  # fmt: skip
    folder = checkpoint.resolve().parent.parent
    if checkpoint.resolve().parent.name != "checkpoints" or not (folder / "config.json").is_file():
        return record
    device = TrainResult.read(folder).device if (folder / "summary.json").is_file() else None
    evaluations = tuple(one for one in read_evaluations(folder) if one.checkpoint == checkpoint.name)
    return replace(record, device=device, evaluations=evaluations)


def model_card(
    title: str, subject: CardSubject, model: ModelConfig, record: TrainingRecord | None = None
) -> str:
    """The text of README.md, sealed with a hash of itself: what a person has edited is not replaced."""
    counted = count(model)
    tags = ["parambudget", subject.model_type, *subject.tags]
    parts = [
        _front_matter({"library_name": subject.library, "pipeline_tag": "text-generation", "tags": tags}),
        f"# {_escape(title)}",
        f"A decoder-only transformer with {counted.total:,} parameters, written as {subject.model_type} by "
        f"parambudget {__version__}. {_origin(record)}",
        subject.usage,
        "## Size",
        _table(_size_rows(model)),
    ]
    if record is not None:
        parts += ["## Training", _table(_training_rows(model, record))]
        if data := _data_rows(record.provenance):
            parts += ["## Data", _table(data)]
        settings = [(name, _setting(value)) for name, value in record.settings.items()]
        parts += ["## Settings", _table(settings)]
    text = "\n\n".join(parts) + "\n"
    return f"{text}\n<!-- parambudget model card {_sha256(text)}: {_SEAL_TEXT} -->\n"


def kept_card(folder: Path) -> list[str]:
    """A note if the folder has a README.md that a person wrote or edited, which is kept."""
    path = folder / CARD
    if path.exists() and not is_own_card(_read(path)):
        return [kept_note(path)]
    return []


def kept_note(card: str | Path) -> str:
    """That a person's own card stays, here or on a hub."""
    return f"{card} is kept as it is: parambudget did not write it, or it was edited since"


def is_own_card(text: str) -> bool:
    """Whether a README.md is as `model_card` wrote it."""
    seal = _SEAL.search(text)
    return seal is not None and _sha256(text[: seal.start()]) == seal[1]


def _read(path: Path) -> str:
    try:
        return read_inside(path).decode(errors="replace")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; move it away") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _origin(record: TrainingRecord | None) -> str:
    if record is None:
        return "The counts are computed from its config."
    return "The figures are those that its training run recorded."


def _front_matter(values: Mapping[str, str | Sequence[str]]) -> str:
    """YAML; a JSON string is one of YAML too."""
    lines = ["---"]
    for key, value in values.items():
        if isinstance(value, str):
            lines.append(f"{key}: {value}")
        else:
            lines += [f"{key}:", *(f"- {json.dumps(one)}" for one in value)]
    return "\n".join([*lines, "---"])


def _table(rows: Rows) -> str:
    lines = (f"| {_escape(name)} | {_escape(value)} |" for name, value in rows)
    return "\n".join(["| | |", "|---|---|", *lines])


def _escape(text: str) -> str:
    """One line of Markdown that shows the text as it is: names of files and settings may hold anything."""
    return re.sub(r"[\\|`<>]", r"\\\g<0>", " ".join(text.split()))


def _size_rows(m: ModelConfig) -> Rows:
    counted = count(m)
    heads = f"{m.n_heads} of width {m.head_dim}"
    if m.n_kv_heads != m.n_heads:
        heads += f", {m.n_kv_heads} for keys and values"
    rows = [
        ("parameters", f"{counted.total:,}"),
        ("without embeddings and output head", f"{counted.body:,}"),
    ]
    if m.moe is not None:
        experts = f"{m.moe.n_experts} experts per layer, {m.moe.n_experts_per_token} per token"
        rows += [("active per token", f"{counted.active:,}"), ("experts", experts)]
    return [
        *rows,
        ("layers", f"{m.n_layers}"),
        ("width", f"{m.dim:,}"),
        ("heads", heads),
        ("width of the FFN", f"{m.active_ffn_width:,}{' per token' if m.moe else ''}"),
        ("vocabulary", f"{m.vocab_size:,}"),
        ("context", f"{m.context_length:,} tokens"),
        ("training FLOPs per token", f"{flops_per_token(m):,} ({FULL_CONVENTION})"),
    ]


def _training_rows(m: ModelConfig, record: TrainingRecord) -> Rows:
    if not record.run.steps:
        return [("updates", "none")]
    last, planned = record.run.steps[-1], record.run.planned_steps
    rows = [
        ("updates", f"{last.step:,}" + ("" if planned is None else f" of {planned:,}")),
        ("tokens", f"{last.tokens:,}"),
        ("FLOPs", f"{format_count(training_flops(m, last.tokens))} ({FULL_CONVENTION})"),
        ("time in updates", format_seconds(record.run.update_seconds)),
    ]
    if record.device:
        rows.append(("device", record.device))
    if last.loss is not None:
        rows.append(("training loss", f"{last.loss:.4f} nats per token, of the last update"))
    return [*rows, *_validation_rows(record.run), *_evaluation_rows(record.evaluations)]


def _validation_rows(run: Run) -> Rows:
    found = next((step for step in reversed(run.evaluations) if step.val_loss is not None), None)
    if found is None:
        return []
    at = "" if found is run.steps[-1] else f", after update {found.step:,}"
    rows = [("validation loss", f"{found.val_loss:.4f} nats per token{at}")]
    if found.val_bits_per_byte is not None:
        rows.append(("", f"{found.val_bits_per_byte:.4f} bits per byte{at}"))
    for name, loss in (found.val_loss_by_set or {}).items():
        if loss is not None:
            rows.append((f"validation loss on {name}", f"{loss:.4f} nats per token{at}"))
    return rows


def _evaluation_rows(evaluations: Sequence[Evaluation]) -> Rows:
    rows = []
    for row in (row for one in evaluations for row in one.rows()):
        error = f" ± {row['stderr']:.4f}" if row["stderr"] != "" else ""
        name = f"{_FIGURES[str(row['figure'])]} on {_public_name(str(row['file']))}"
        rows.append((name, f"{row['value']:.4f}{error}"))
    return rows


def _data_rows(provenance: Mapping[str, Any]) -> Rows:
    """What the run read. Of a path only the last part: the folders of a machine are nobody's concern."""
    rows = []
    mixture = provenance.get("mixture") or []
    if not mixture and isinstance(provenance.get("corpus"), str):
        rows.append(("text", _public_name(provenance["corpus"])))
    for one in mixture:
        rows.append((_public_name(str(one["name"])), f"share {one['share']}, {one['train_tokens']:,} tokens"))
    if isinstance(provenance.get("train_tokens"), int):
        rows.append(("training tokens in it", f"{provenance['train_tokens']:,}"))
    if isinstance(provenance.get("tokenizer_entries"), int):
        rows.append(("tokenizer", count_phrase(provenance["tokenizer_entries"], "entry")))
    if isinstance(provenance.get("corpus_sha256"), str):
        rows.append(("SHA-256 of the text", provenance["corpus_sha256"]))
    return rows


def _public_name(source: str) -> str:
    return (
        source if source.startswith(HUB_PREFIX) or is_built_in(Path(source)) else Path(source).name or source
    )


def _setting(value: object) -> str:
    return "none" if value is None else str(value)
