"""The Shape tab: sizes and choices of the model, and what they count."""

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Final, cast, get_args

from nicegui import background_tasks, ui

from parambudget import api
from parambudget._files import json_text
from parambudget.arch.config import FIELDS, MIXERS, ModelConfig, flat_fields
from parambudget.arch.dims import MixerKind, has_attention_layers, has_dense_layers, has_ffn_layers
from parambudget.arch.field_text import parse_field
from parambudget.arch.presets.registry import PRESETS, preset_row
from parambudget.arch.style import STYLES, StyleName
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import ParameterCount
from parambudget.errors import InputError
from parambudget.formats.source import config_document
from parambudget.render.commands import data_flag, runnable_command
from parambudget.render.model import component_name, description, flags, products, python_source
from parambudget.units import format_count
from parambudget.web.controls import (
    RangeSlider,
    choice_field,
    copy_button,
    error_line,
    explain,
    name_for_reader,
    section,
    show_error,
    switch_field,
    text_field,
)
from parambudget.web.markup import BarPart, bar_legend, big_figures, html_table, sentences, stacked_bar
from parambudget.web.model_edit import apply_style, change_field
from parambudget.web.session import LatestCall, Session
from parambudget.web.typeset import TypesetFormula, known_formula, typeset_formula


def _steps(*runs: tuple[int, int]) -> tuple[int, ...]:
    """Values from the first run's step on, in steps that grow: each run is its end and its step."""
    values = [0]
    for end, step in runs:
        values += range(values[-1] + step, end + 1, step)
    return tuple(values[1:])


_HEADS: Final = _steps((32, 1), (64, 2), (128, 8))
_WIDTHS: Final = _steps((1024, 64), (2048, 128), (8192, 256), (20480, 512))
_FFN: Final = _steps((2048, 64), (8192, 128), (32768, 512), (65536, 1024))
_STOPS: Final = {
    "dim": _WIDTHS, "n_layers": _steps((48, 1), (128, 2)), "n_heads": _HEADS, "n_kv_heads": _HEADS,
    "head_dim": _steps((256, 16)), "intermediate_size": _FFN,
    "vocab_size": (256, 1024, 4096, 8192, 16384, 32000, 32768, 49152, 50257, 50304, 65536, 100352, 128256,
                   151936, 200064, 262144),
    "context_length": (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144),
    "n_experts": _steps((16, 2), (64, 8), (512, 32)), "n_experts_per_token": _steps((16, 1)),
    "n_shared_experts": (0, 1, 2, 3, 4), "expert_intermediate_size": _FFN,
    "n_first_dense": (0, 1, 2, 3, 4),
}  # fmt: skip
"""What the slider of a size stops at; its box takes any value."""
_LABELS: Final = {
    "dim": "Width (dim)", "n_layers": "Layers", "n_heads": "Query heads", "n_kv_heads": "Key/value heads",
    "head_dim": "Head width", "intermediate_size": "FFN width", "vocab_size": "Vocabulary",
    "context_length": "Context length", "tied": "Tie embedding and output head", "gated": "Gated FFN",
    "activation": "Activation", "norm": "Norm", "norm_placement": "Norm placement", "block": "Block layout",
    "qk_norm": "Norm on queries and keys", "position": "Positions", "window": "Attention window",
    "qkv_bias": "Bias on queries, keys, values", "ffn_bias": "Bias in the FFN", "n_experts": "Experts",
    "n_experts_per_token": "Experts per token", "expert_intermediate_size": "Expert width",
    "n_shared_experts": "Shared experts", "n_first_dense": "Dense layers first",
    "kv_lora_rank": "Latent width of keys and values", "q_lora_rank": "Latent width of queries",
    "qk_nope_head_dim": "Head width without positions", "qk_rope_head_dim": "Head width with positions",
    "v_head_dim": "Value head width", "delta_n_key_heads": "Key heads", "delta_n_value_heads": "Value heads",
    "delta_key_dim": "Key head width", "delta_value_dim": "Value head width",
    "delta_conv_width": "Convolution width", "delta_gate_rank": "Rank of the gate",
    "short_conv_width": "Convolution width", "lightning_n_heads": "Heads",
    "lightning_head_dim": "Head width", "lru_n_blocks": "Blocks of the gates",
    "lru_block_width": "Width of a block", "lru_conv_width": "Convolution width",
    "rwkv_inner_size": "Inner width", "mamba_inner_size": "Inner width", "mamba_dt_rank": "Rank of the steps",
    "mamba_state_dim": "State width", "mamba_conv_width": "Convolution width", "mamba2_n_heads": "Heads",
    "mamba2_head_dim": "Head width", "mamba2_state_dim": "State width", "mamba2_n_groups": "Groups",
    "mamba2_conv_width": "Convolution width",
}  # fmt: skip
_SIZES: Final = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size", "vocab_size",
                 "context_length")  # fmt: skip
_MOE: Final = (
    "n_experts",
    "n_experts_per_token",
    "expert_intermediate_size",
    "n_shared_experts",
    "n_first_dense",
)
_MLA: Final = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_MLA_SETS: Final = ("n_kv_heads", "head_dim")
"""Sizes that follow from latent attention where there is one."""


class ShapeTab:
    """The controls of a model and its figures."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._syncing = False
        self._controls: dict[str, Callable[[ModelConfig], None]] = {}
        """How each control shows a model's value."""
        self._groups: list[tuple[ui.element, Callable[[ModelConfig], bool]]] = []
        """Parts of the controls, and for which models they are there."""
        with ui.element("div").classes("pb-columns"):
            with ui.element("div").classes("pb-controls"):
                self._add_controls()
            with ui.element("div").classes("pb-results"):
                self._error = error_line()
                self._notes = ui.html("", sanitize=False).classes("pb-notes").props("aria-live=polite")
                self._figures = ui.html("", sanitize=False).props("aria-live=polite id=shape-figures")
                self._add_copy_buttons()
                self._breakdown = ui.html("", sanitize=False)
                self._formula = ui.html("", sanitize=False)
        self._call, self._is_typesetting = LatestCall(self._formula), False
        # On a phone the figures are below the sliders: their sum stays in sight.
        self._summary = ui.html("", sanitize=False).classes("pb-summary").props("aria-hidden=true")
        session.on_model(self._show)
        self._show()

    def _add_controls(self) -> None:
        with section("Start from"):
            names = {"": "sizes below"} | {name: name for name in PRESETS}
            self._preset = choice_field(
                "Published model",
                names,
                self._session.state.model.preset or "",
                self._take_preset,
                search=True,
            )
            styles = {"": "none: keep the choices"}
            styles |= {name: f"{name}: {style.in_words}" for name, style in STYLES.items()}
            self._style = choice_field("Apply a style", styles, "", self._take_style)
        with section("Sizes"):
            for name in _SIZES:
                self._add_size(name)
        with self._group(section("Attention"), has_attention_layers):
            for name in ("qk_norm", "position"):
                self._add_choice(name)
            self._add_number("window")
            self._add_switch("qkv_bias")
            self._add_block("mla", "Multi-head latent attention", _MLA, self._add_number)
        with self._group(section("Mixers"), lambda model: model.mixer is not None):
            for kind in MIXERS:
                self._add_mixer(kind)
        with self._group(section("Feed-forward network"), has_ffn_layers):
            self._add_switch("gated")
            self._add_choice("activation")
            self._add_switch("ffn_bias")
            self._add_block("moe", "Mixture of experts", _MOE, self._add_size)
        with section("Norms and output"):
            for name in ("norm", "norm_placement", "block"):
                self._add_choice(name)
            self._add_switch("tied")

    def _add_block(self, block: str, label: str, names: tuple[str, ...], add: Callable[[str], None]) -> None:
        switch = switch_field(label, False, lambda on: self._change(block, on))
        self._controls[block] = lambda model: _set_value(switch, getattr(model, block) is not None)
        part = ui.element("div").classes("pb-group")
        with self._group(part, lambda model: getattr(model, block) is not None):
            for name in names:
                add(name)

    def _add_mixer(self, kind: MixerKind) -> None:
        """The sizes of a mixer other than attention."""
        part = ui.element("div").classes("pb-group")
        with self._group(part, lambda model: getattr(model, kind) is not None):
            ui.label(kind.replace("_", " "))
            for name in MIXERS[kind].model_fields:
                if name in _LABELS:
                    self._add_number(name)

    def _group(self, part: ui.element, is_there: Callable[[ModelConfig], bool]) -> ui.element:
        self._groups.append((part, is_there))
        return part

    def _add_size(self, name: str) -> None:
        """A slider over usual values, and a box for any."""
        label, stops = _LABELS[name], _STOPS[name]
        row = ui.element("div").classes("pb-size")
        with row:
            explain(ui.label(label).classes("pb-label").props("aria-hidden=true"), name)
            slider = RangeSlider(label, stops, lambda value: self._change(name, value))
            box = ui.input(on_change=lambda event: self._type(name, event.value))
            box.props("dense outlined debounce=350 inputmode=numeric autocomplete=off")
            name_for_reader(box, label)

        def show(model: ModelConfig) -> None:
            value = flat_fields(model).get(name)
            row.set_visibility(value is not None and _has_use(model, name))
            if value is None:
                return
            slider.show(value)
            _set_value(box, str(value))

        self._controls[name] = show

    def _add_number(self, name: str) -> None:
        box = text_field(_LABELS[name], "", lambda text: self._type(name, text), placeholder="none")
        explain(box, name)

        def show(model: ModelConfig) -> None:
            value = flat_fields(model).get(name)
            _set_value(box, "" if value is None else str(value))

        self._controls[name] = show

    def _add_choice(self, name: str) -> None:
        options = [str(each).replace("_", " ") for each in get_args(FIELDS[name].annotation)]
        values = dict(zip(get_args(FIELDS[name].annotation), options, strict=True))
        box = choice_field(
            _LABELS[name], values, FIELDS[name].default, lambda value: self._change(name, value)
        )
        explain(box, name)
        self._controls[name] = lambda model: _set_value(box, flat_fields(model)[name])

    def _add_switch(self, name: str) -> None:
        switch = switch_field(_LABELS[name], False, lambda on: self._change(name, on))
        explain(switch, name)
        self._controls[name] = lambda model: _set_value(switch, flat_fields(model)[name])

    def _add_copy_buttons(self) -> None:
        with ui.element("div").classes("pb-copies").props('role=group aria-label="Copy the model"'):
            copy_button("flags", lambda: flags(self._session.model))
            copy_button("Python", lambda: python_source(self._session.model))
            copy_button("config.json", lambda: json_text(config_document(self._session.model), indent=2))
            copy_button(
                "training command",
                lambda: runnable_command("train", flags(self._session.model), data_flag()),
            )

    def _type(self, name: str, text: str | None) -> None:
        if self._syncing:
            return
        if not (text or "").strip():
            self._change(name, None)
            return
        try:
            value = parse_field(name, text, FIELDS[name])
        except InputError as error:
            self._refuse(error)
            return
        self._change(name, value)

    def _change(self, name: str, value: object) -> None:
        if self._syncing:
            return
        try:
            edit = change_field(self._session.model, name, value)
        except InputError as error:
            self._refuse(error)
            return
        if edit.model != self._session.model:
            self._session.set_model(edit.model, self._session.state.model.preset)
        else:
            self._show()
        self._notes.content = sentences((*self._preset_notes(), *edit.notes))

    def _take_preset(self, name: str | None) -> None:
        if self._syncing:
            return
        if name:
            self._session.set_model(preset_row(name).model, name)
        elif self._session.state.model.preset:
            self._session.set_model(self._session.model)

    def _take_style(self, name: str) -> None:
        if self._syncing or name not in STYLES:
            return
        try:
            edit = apply_style(self._session.model, cast(StyleName, name))
        except InputError as error:
            self._refuse(error)
            return
        self._session.set_model(edit.model)
        self._notes.content = sentences(edit.notes)

    def _refuse(self, error: InputError) -> None:
        show_error(self._error, f"{error}. The figures are still those of the last model that was complete.")
        self._figures.classes(add="pb-stale")
        self._breakdown.classes(add="pb-stale")

    def _show(self) -> None:
        """Show the session's model in every control and figure."""
        model = self._session.model
        self._syncing = True
        try:
            for show in self._controls.values():
                show(model)
            for part, is_there in self._groups:
                part.set_visibility(is_there(model))
            _set_value(self._preset, self._session.state.model.preset or "")
            _set_value(self._style, "")
        finally:
            self._syncing = False
        show_error(self._error, None)
        self._notes.content = sentences(self._preset_notes())
        self._figures.classes(remove="pb-stale")
        self._breakdown.classes(remove="pb-stale")
        counted = api.count(model)
        self._figures.content = count_figures(counted)
        self._summary.content = (
            f"<b>{counted.total:,}</b><span>{format_count(flops_per_token(model))} FLOPs per token</span>"
        )
        formula = known_formula(model)
        self._breakdown.content = count_breakdown(counted)
        self._formula.content = _formula(formula)
        if formula is None and not self._is_typesetting:
            background_tasks.create(self._typeset())

    def _preset_notes(self) -> tuple[str, ...]:
        """What the preset computes that the model does not."""
        preset = self._session.state.model.preset
        return preset_row(preset).notes if preset else ()

    async def _typeset(self) -> None:
        """Typeset the formula of the model as it is by then: a slider does not wait for it."""
        self._is_typesetting = True
        try:
            while (formula := known_formula(self._session.model)) is None:
                if await self._call.run(partial(typeset_formula, self._session.model)) is None:
                    return
            self._formula.content = _formula(formula)
        finally:
            self._is_typesetting = False


def _has_use(model: ModelConfig, size: str) -> bool:
    """Whether a size counts in the model: no other one does where it has no such layer, or sets it itself."""
    if size == "intermediate_size":
        return has_dense_layers(model)
    if size in ("n_heads", "n_kv_heads", "head_dim") and not has_attention_layers(model):
        return False
    return model.mla is None or size not in _MLA_SETS


def _set_value(control: ui.input | ui.select | ui.switch, value: object) -> None:
    if control.value != value:
        control.value = value


def count_figures(counted: ParameterCount) -> str:
    """The counts and FLOPs of a model in large type."""
    full, causal = (flops_per_token(counted.model, convention) for convention in ("full", "causal"))
    return big_figures(
        {
            "total": (
                f"{counted.total:,}",
                f"{format_count(counted.total)} unique parameters; a tied head counts once",
            ),
            "body": (f"{counted.body:,}", "without embeddings and output head"),
            "active": (f"{counted.active:,}", "used per token, embeddings counted fully"),
            "FLOPs per token": (
                format_count(full),
                f"to train, attention over the whole context; {format_count(causal)} over earlier tokens",
            ),
        }
    )


def count_breakdown(counted: ParameterCount) -> str:
    """The components of a count, as a bar and as a table."""
    parts = {name: size for name, size in counted.by_component.items() if size}
    bar = [BarPart(component_name(name), size, f"{size / counted.total:.1%}") for name, size in parts.items()]
    rows = [("component", "tensors", "parameters", "share")]
    for name, size in parts.items():
        tensors = [row for row in counted.tensors if row.component == name and row.shared_with is None]
        rows.append((component_name(name), products(tensors), f"{size:,}", f"{size / counted.total:.2%}"))
    return (
        stacked_bar(bar, counted.total, "Parameters by component")
        + bar_legend(part.name for part in bar)
        + html_table(
            [*rows, ("total", "", f"{counted.total:,}", "")], "Parameters by component", columns_left=2
        )
        + f'<p class="pb-muted">{escape(description(counted.model))}</p>'
    )


def _formula(formula: TypesetFormula | None) -> str:
    """The typeset formula of each component, and what its letters stand for."""
    if formula is None:
        return '<h2>Formula</h2><p class="pb-muted" id="formula">The formula is being computed...</p>'
    terms = "".join(
        f"<tr><th scope='row'>{escape(component_name(name))}</th><td>{mathml}</td></tr>"
        for name, mathml in formula.components.items()
    )
    letters = "".join(f"<span>{mathml} {escape(name)}</span>" for name, mathml in formula.legend.items())
    return (
        '<h2>Formula</h2><div class="pb-scroll" tabindex="0" role="region" aria-label="Formula" id="formula">'
        f"<table><caption>Parameters are the sum of</caption><tbody>{terms}</tbody></table></div>"
        f'<p class="pb-letters">{letters}</p>'
    )
