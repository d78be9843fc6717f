"""A count as a person reads it: component, the products it is made of, parameters and share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NotRequired

from parambudget.arch.blocks import CountedParts, IndexerConfig, MLAConfig
from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.defaults import ResolvedModel
from parambudget.arch.description import NORM_NAMES, ffn_in_words
from parambudget.arch.mixers.rows import model_mixer
from parambudget.arch.table import Component, Tensor
from parambudget.cost.params import FormulaDocument, ParameterCount, ParameterCountDocument
from parambudget.formats.source import changed_fields
from parambudget.render.terminal import bold, dim, table, wrap_text
from parambudget.units import count_phrase

if TYPE_CHECKING:
    from parambudget.cost.formula import Formula
    from parambudget.formats.hf.class_count import ClassCount

_NAMES = {
    "token_embedding": "token embedding",
    "position_embedding": "position embedding",
    "ffn": "FFN",
    "lm_head": "head",
}


class CountDocument(ParameterCountDocument):
    """The exact parameters of a model. A file of this is accepted wherever a config file is."""

    filled: list[str]
    """Fields of the model that were not given and got their conventional value."""
    notes: list[str]
    """What there is to know about how the model was read."""
    verified: NotRequired[bool]
    """true: the model was built in torch, and its tensors are those that were counted. Absent unless asked
    for."""
    formula: NotRequired[FormulaDocument]
    """Absent unless asked for."""


def count_document(counted: ParameterCount, resolved: ResolvedModel) -> CountDocument:
    """The count of a model, and how the model was read."""
    count = counted.as_dict()
    return {
        "model": count["model"], "total": count["total"], "body": count["body"], "active": count["active"],
        "components": count["components"], "filled": list(resolved.defaulted),
        "notes": list(resolved.notes),
    }  # fmt: skip


def count_screen(counted: ParameterCount, completed: ResolvedModel, width: int) -> list[str]:
    """The screen of `count`: what the model is, its components, and the three counts."""
    rows = [("component", "tensors", "parameters", "share")]
    for component, parameters in counted.by_component.items():
        tensors = [row for row in counted.tensors if row.component == component]
        if tensors:
            shapes = _shared_tensor(tensors) or products(tensors)
            share = f"{parameters / counted.total:.2%}"
            rows.append((component_name(component), shapes, f"{parameters:,}", share))
    rows.append(("total", "", f"{counted.total:,}", ""))
    head, *components, whole = table(rows, left=(0, 1), fluid=1, width=width)
    remarks = [*([_filled_in(completed)] if completed.defaulted else []), *completed.notes]
    return [
        *map(bold, wrap_text(description(counted.model), width)),
        *(dim(line) for remark in remarks for line in wrap_text(remark, width)),
        "",
        bold(head),
        *components,
        bold(whole),
        "",
        *_three_counts(counted),
    ]


def class_count_screen(counted: ClassCount, width: int) -> list[str]:
    """The screen of `count --class`: what was counted, its components, and the two counts."""
    rows = [("component", "parameters", "share")]
    for component, parameters in counted.by_component.items():
        if parameters:
            name = _CLASS_NAMES.get(component, component)
            rows.append((name, f"{parameters:,}", f"{parameters / counted.total:.2%}"))
    rows.append(("total", f"{counted.total:,}", ""))
    head, *components, whole = table(rows, left=(0,))
    counts = (
        ("total", f"{counted.total:,}", "unique parameters; a tied head counts once"),
        (
            "active", "unknown" if counted.active is None else f"{counted.active:,}",
            "parameters used per token (embeddings counted fully)",
        ),
    )  # fmt: skip
    digits = max(len(count) for _, count, _ in counts)
    return [
        *map(bold, wrap_text(f"{counted.model_type}, counted from {counted.counted_from}", width)),
        *(dim(line) for note in counted.notes for line in wrap_text(note, width)),
        "",
        bold(head),
        *components,
        bold(whole),
        "",
        *(f"{bold(f'{name:6}')}  {count:>{digits}}  {dim(meaning)}" for name, count, meaning in counts),
    ]


_CLASS_NAMES: Final = {
    "mixer": "attention, mixers", "ffn": "FFN", "norm": "norms", "lm_head": "head",
    "embedding": "embeddings", "other": "other parts",
}  # fmt: skip


def description(model: ModelConfig) -> str:
    """One line that says what kind of model this is."""
    m = model
    activation = f"channel mix of {m.activation}" if m.channel_mix else m.activation
    if m.gated:
        gated = {"silu": "SwiGLU", "gelu": "GeGLU", "gelu_tanh": "GeGLU"}
        activation = gated.get(m.activation, f"gated {m.activation}")
    norm = NORM_NAMES[m.norm]
    biases = [name for name in ("qkv", "attention_out", "ffn", "head") if getattr(m, f"{name}_bias")]
    parts = [
        count_phrase(m.n_layers, "layer"),
        f"dim {m.dim}",
        *_mixing(m),
        _indexer(m, m.indexer) if m.indexer else "",
        *(ffn_in_words(m, activation) or ["no FFN"]),
        f"FFN in {m.n_ffn_layers} layers" if 0 < m.n_ffn_layers < m.n_layers else "",
        f"{m.norm_placement}-{norm}" + ("" if m.norm_weight else " without parameters"),
        *(_positions(m) if m.n_attention_layers else []),
        "" if m.block == "sequential" else m.block.replace("_", " ") + " block",
        "" if m.qk_norm == "none" else f"QK-norm ({m.qk_norm.replace('_', ' ')})",
        f"bias on {', '.join(biases)}" if biases else "no bias",
        f"embedding of {m.embedding_dim}, projected" if m.embedding_dim else "",
        _counted_parts(m.counted_parts) if m.counted_parts else "",
        "tied" if m.tied else "untied",
        f"vocabulary {m.vocab_size}",
        f"context {m.context_length}",
    ]
    return " · ".join(filter(None, parts))


def _mixing(m: ModelConfig) -> list[str]:
    """What mixes tokens: attention, and other mixers with the sizes of their block."""
    parts = []
    if m.n_attention_layers:
        kv = f"{m.n_kv_heads} kv heads"
        if m.kv_group == 1 or m.n_kv_heads == 1:
            kv = "multi-head" if m.kv_group == 1 else "multi-query"
        how = kv if m.mla is None else _latent_attention(m.mla)
        gate = "" if m.attention_gate == "none" else f", a gate for each {m.attention_gate}"
        some = (
            "" if m.n_attention_layers == m.n_layers else f" in {count_phrase(m.n_attention_layers, 'layer')}"
        )
        parts.append(f"{count_phrase(m.n_heads, 'head')} of {m.head_dim} ({how}{gate}){some}")
    kind = model_mixer(m)
    if kind is not None:
        fields = type(getattr(m, kind)).model_fields
        sizes = ", ".join(
            f"{name} {_value_in_words(value)}"
            for name, value in getattr(m, kind)
            if type(value) is int or value != fields[name].default
        )
        name = kind.replace("_", " ")
        parts.append(f"{name} in {count_phrase(m.n_mixer_layers, 'layer')} ({sizes})")
    return parts


def _positions(m: ModelConfig) -> list[str]:
    """How positions enter, and what a query sees."""
    name = {"none": "no", "alibi": "ALiBi"}.get(m.position, m.position)
    attending = [layer for layer in range(m.n_layers) if m.has_attention(layer)]
    still = sum(not m.rotates(layer) for layer in attending) if m.position == "rotary" else 0
    if m.rope_scaling:
        name += f" ({m.rope_scaling.rope_type})"
    parts = [
        f"{name} positions"
        + (f", none in {still} of {count_phrase(len(attending), 'layer')}" if still else "")
    ]
    if m.n_local_layers:
        parts.append(f"window {m.window} in {m.n_local_layers} of {count_phrase(len(attending), 'layer')}")
    return parts


def _latent_attention(mla: MLAConfig) -> str:
    """Latent attention: what is small, and how wide the parts of a head are."""
    queries = f", queries from {mla.q_lora_rank}" if mla.q_lora_rank else ""
    return f"latent attention from {mla.kv_lora_rank}{queries}, values of {mla.v_head_dim}"


def _indexer(m: ModelConfig, indexer: IndexerConfig) -> str:
    """Sparse attention: how many keys are left, and what chooses them."""
    heads = f"{count_phrase(indexer.n_index_heads, 'head')} of {indexer.index_head_dim}"
    own = m.n_indexed_layers
    where = "" if own == m.n_layers else f" in {own} of {count_phrase(m.n_layers, 'layer')}"
    return f"{indexer.index_top_k} keys per query, chosen by {heads}{where}"


def _counted_parts(parts: CountedParts) -> str:
    """What the model has that is counted and not built."""
    fields = type(parts).model_fields
    own = (f"{name} {_value_in_words(value)}" for name, value in parts if value != fields[name].default)
    return f"counted only: {', '.join(own)}"


def _filled_in(completed: ResolvedModel) -> str:
    """Which fields were left out and what they became."""
    fields = flat_fields(completed.model)
    values = (f"{name} {_value_in_words(fields[name])}" for name in completed.defaulted)
    return f"filled in: {', '.join(values)}"


def products(rows: Sequence[Tensor]) -> str:
    """The products that a count is the sum of, equal ones together: `24 × (2 × 896×896 + 2 × 128×896)`. Later
    uses of a shared block are not among them."""
    by_copies: dict[int, dict[tuple[int, ...], int]] = {}
    for row in rows:
        if row.shared_with == row.name:
            continue
        shapes = by_copies.setdefault(row.copies, {})
        # q is (heads, dim) and out (dim, heads): the same product.
        key = tuple(sorted(row.shape, reverse=True))
        shapes[key] = shapes.get(key, 0) + 1
    return " + ".join(_product(copies, shapes) for copies, shapes in by_copies.items())


def component_name(component: Component | str) -> str:
    """The component in words."""
    return _NAMES.get(component, component.replace("_", " "))


_PART_NAMES: Final = {
    "optimizer": "optimizer state", "weight_copies": "bfloat16 copies of weights",
    "in_flight": "temporary buffers",
}  # fmt: skip


def memory_part_in_words(part: str) -> str:
    """A part of the memory, as a person calls it."""
    return _PART_NAMES.get(part, part.replace("_", " "))


def _product(copies: int, shapes: dict[tuple[int, ...], int]) -> str:
    terms = [(f"{n} × " if n > 1 else "") + "×".join(map(str, shape)) for shape, n in shapes.items()]
    inner = " + ".join(terms)
    if copies == 1:
        return inner
    return f"{copies} × ({inner})" if len(terms) > 1 else f"{copies} × {inner}"


def _shared_tensor(rows: Iterable[Tensor]) -> str | None:
    """Whose tensor it is, where that has another name."""
    others = (row for row in rows if row.shared_with not in (None, row.name))
    return next((f"shared with {row.shared_with}" for row in others), None)


def _three_counts(counted: ParameterCount) -> list[str]:
    counts = (
        ("total", counted.total, "unique parameters; a tied head counts once"),
        ("body", counted.body, "total without embeddings and output head"),
        ("active", counted.active, "parameters used per token (embeddings counted fully)"),
    )
    width = len(f"{counted.total:,}")
    return [f"{bold(f'{name:6}')}  {count:>{width},}  {dim(meaning)}" for name, count, meaning in counts]


def _value_in_words(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_NAMED_SWITCHES: Final = {"tied": ("--tied", "--untied")}


def switch_flags(name: str) -> tuple[str, str]:
    """The flags that turn a field on and off: `--qkv-bias` and `--no-qkv-bias`."""
    dashed = name.replace("_", "-")
    return _NAMED_SWITCHES.get(name, (f"--{dashed}", f"--no-{dashed}"))


def flags(model: ModelConfig) -> str:
    """The fewest flags that give this model."""
    return as_flags(changed_fields(model))


def as_flags(fields: Mapping[str, object]) -> str:
    """The flags that set these fields. A field that is None needs none."""
    words = []
    for name, value in fields.items():
        if isinstance(value, bool):
            words.append(switch_flags(name)[not value])
        elif isinstance(value, tuple):
            words.append(f"--{name.replace('_', '-')} {','.join(map(str, value))}")
        elif value is not None:
            words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(words)


def python_source(model: ModelConfig) -> str:
    """Lines of Python that build this model, with the fewest fields."""
    fields = ", ".join(f"{name}={value!r}" for name, value in changed_fields(model).items())
    return f"import parambudget as pb\n\nmodel = pb.model({fields})\n"


def formula_lines(closed: Formula) -> list[str]:
    """The screen of `count --formula`."""
    components = [[component_name(name), str(expression)] for name, expression in closed.components.items()]
    first, *others = table([["component", "formula"], *components], left=(0, 1))
    legend = [[letter, field, f"{closed.sizes[field]:,}"] for letter, field in closed.legend.items()]
    total = [bold(f"total = {closed}"), f"      = {closed.evaluate():,}"]
    return [bold(first), *others, "", *total, "", *table(legend, left=(0, 1, 2))]
