"""The MCP server: count, solve, resize, plan and compare as tools for agents, over standard input and output.

A tool takes what the verb of the library takes and answers with what `--json` of the command prints. What a
person would be told in one line, the agent is told in the same line.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Final, Self, cast

import anyio
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parambudget import api
from parambudget._files import json_text
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import ResolvedModel
from parambudget.arch.style import StyleName, with_style
from parambudget.arch.synonyms import SYNONYMS
from parambudget.cost.params import count as count_parameters
from parambudget.cost.step import STEP_FIELDS, OptimizerName, StepConfig, StepFields
from parambudget.errors import ConfigError, ParambudgetError, nearest_in_words, suggest
from parambudget.formats.source import interpret, load, resolve
from parambudget.planning.budget import Budget
from parambudget.planning.machine import Machine
from parambudget.planning.run_plan import ComparisonDocument, RunPlan, RunPlanDocument
from parambudget.render.json_schema import json_schema
from parambudget.render.model import CountDocument, count_document
from parambudget.render.solutions import SolveDocument, solve_document
from parambudget.search.fields import SearchFields
from parambudget.search.options import DEFAULT_TOLERANCE, DEFAULT_TOP, CountKind, Rank
from parambudget.units import format_tolerance, short_repr

INSTRUCTIONS: Final = (
    "Sizes, counts and plans decoder-only transformers on a fixed budget; nothing is trained or downloaded. "
    "count gives exact parameters; solve finds the models of a size, or for a budget of hours, dollars, "
    "FLOPs or memory; resize brings a model to another size; plan predicts memory, speed, cost and loss of a "
    "training run; compare does so for several models and the same run. Quote tokens/s, hours and dollars "
    "with their intervals (low, high). An expected loss without an anchor is for comparing models, not an "
    "absolute value: give `anchor` a measured run. Pass on what warnings and suggestions say. The `model` of "
    "one answer can be the `model` of the next call."
)
ModelArgument = str | dict[str, Any]
"""The name of a preset, the path of a config file, or a config itself."""
_MODELS: Final = (
    "a preset's name (gpt2, llama-3-8b), the path of a config file, or an object: fields of a model such as "
    '{"dim": 896, "n_layers": 24, "n_heads": 14}, the `model` of another answer, or a Hugging Face '
    "config.json"
)


class _Arguments(BaseModel):
    """What a tool takes: closed, and nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """The arguments of a call; raises `ConfigError` with one line."""
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            findings = error.errors(include_url=False)
        name, known = str(findings[0]["loc"][0]), cls.model_fields
        if findings[0]["type"] == "extra_forbidden":
            near = suggest(name, known)
            hint = nearest_in_words(near) if near else f"use {', '.join(known)}"
            raise ConfigError(f"unknown argument {short_repr(name)}; {hint}")
        if findings[0]["type"] == "missing":
            raise ConfigError(f"`{name}` is missing; give {known[name].description}")
        # One finding for each type that it might have had.
        musts = [re.sub("^(Input|List) should ", "", each["msg"]) for each in findings if name in each["loc"]]
        raise ConfigError(f"`{name}` is {short_repr(given[name])}; it must {' or '.join(musts)}")


class MachineArguments(_Arguments):
    """What is trained on."""

    machine: str | None = None
    """A GPU such as h100, a100 or 4090, or cpu; unless given, the machine that this server runs on."""
    gpus: int = 1
    """How many GPUs."""
    gpus_per_node: int | None = None
    """GPUs of a node, 8 unless given; more than these are several nodes."""
    network: str | None = None
    """Between nodes, per GPU, such as 400Gb/s."""
    dollars_per_hour: float | None = None
    """Price of one GPU's hour; unless given, a dated range."""
    gpu_memory: str | None = None
    """For a GPU that is not in the list: its memory, such as 24GB. `machine` is then its name."""
    gpu_tflops: float | None = None
    """For a GPU that is not in the list: its dense TFLOP/s in bfloat16 with 32-bit accumulation."""
    gpu_bandwidth: str | None = None
    """For a GPU that is not in the list: the bandwidth of its memory, such as 1008GB/s."""
    grid_intensity: float | None = None
    """Grams of CO2 equivalent per kWh of electricity; unless given, the world's average."""
    stack: str | None = None
    """Speeds of other training software: best, typical, eager, or one such as torchtitan."""
    mfu: float | None = None
    """The model FLOPs utilization of your own trainer, such as 0.35."""

    @property
    def figures(self) -> dict[str, Any]:
        """What is given beside the name and the number of GPUs, as the library takes it."""
        names = [name for name in MachineArguments.model_fields if name not in ("machine", "gpus")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def is_given(self) -> bool:
        """Whether anything is said of the machine."""
        return self.machine is not None or self.gpus != 1 or bool(self.figures)

    @property
    def machine_flags(self) -> dict[str, Any]:
        """The same as the command line has it."""
        names = {"dollars_per_hour": "price"}
        figures = {names.get(name, name): value for name, value in self.figures.items()}
        return {"gpu": self.machine, "gpus": None if self.gpus == 1 else self.gpus, **figures}

    def build(self) -> Machine:
        """The machine."""
        return api.machine(self.machine, gpus=self.gpus, **self.figures)


def _step(name: str) -> Any:
    """A setting of an update that may be left to be chosen."""
    return Field(default=None, description=StepConfig.model_fields[name].description)


class StepArguments(_Arguments):
    """How an update is executed; what is left out is chosen."""

    batch_size: int | None = _step("batch_size")
    gradient_accumulation_steps: int | None = _step("gradient_accumulation_steps")
    optimizer: OptimizerName | None = _step("optimizer")
    gradient_checkpointing: bool | None = _step("gradient_checkpointing")
    activation_memory_budget: float | None = _step("activation_memory_budget")
    loss_chunks: int | None = _step("loss_chunks")
    z_loss: float | None = _step("z_loss")
    mask_documents: bool | None = _step("mask_documents")
    shard: bool | None = _step("shard")
    shard_degree: int | None = _step("shard_degree")

    @property
    def step_fields(self) -> StepFields:
        """Those that are given."""
        given = {name: value for name in STEP_FIELDS if (value := getattr(self, name)) is not None}
        return cast(StepFields, given)


class CountArguments(_Arguments):
    """What to count."""

    model: ModelArgument = Field(description=_MODELS)
    changes: dict[str, Any] = {}
    """Fields of the model to change, such as {"context_length": 8192}."""
    style: StyleName | None = None
    """Choices of a model that is given by its sizes: llama (the default) or modern."""
    formula: bool = False
    """Also give the closed formula of the count."""


class SolveArguments(MachineArguments, StepArguments):
    """What to search for: a target, a budget, or both."""

    target: str | int | None = None
    """Parameters that the model should have, such as 350M."""
    counted: CountKind = "total"
    """What the target counts. body: without embeddings and output head; active: used per token."""
    active: str | int | None = None
    """Beside the target, for models with experts: parameters used per token, such as 1B."""
    tolerance: str = format_tolerance(DEFAULT_TOLERANCE)
    """How far off the target a model may be."""
    hours: float | None = None
    """Budget: training time in hours on `machine`."""
    dollars: float | None = None
    """Budget: cost of renting `machine`."""
    flops: str | float | None = None
    """Budget: FLOPs of the training run, such as 1e19."""
    memory: str | None = None
    """Memory of one GPU that training may take, such as 24GB."""
    sizes: dict[str, Any] = {}
    """Sizes to search and choices to fix, by field: {"n_layers": "20:30", "head_dim": "64,128",
    "vocab_size": 32768, "tied": true}. A size is a value, a list, or a range lo:hi or lo:hi:step; kv_groups,
    ffn_ratio ("1:6") and multiple bound others."""
    like: str | None = None
    """Search models that are otherwise like this preset or config file."""
    style: StyleName | None = None
    """Choices that are not given: llama (the default) or modern."""
    rank: Rank | None = None
    """Order of the answers; unless given, how usual the shape is for a target, the expected loss for hours,
    dollars or FLOPs, the size for memory alone."""
    top: int = DEFAULT_TOP
    """How many models to give."""
    law: str | None = None
    """Loss law: besiroglu-2024 (the default), hoffmann-2022 or muennighoff-2023."""
    unique_tokens: str | int | None = None
    """Tokens in the text; a longer run repeats them. Unlimited unless given."""
    anchor: str | None = None
    """A measured run that losses and speed take their level from: the folder of a run, or text such as
    loss=3.21,tokens=400M,model=gpt2."""


class ResizeArguments(MachineArguments, StepArguments):
    """A model to bring to another size."""

    current: ModelArgument = Field(description=_MODELS)
    target: str | int
    """Parameters that it should have, such as 350M."""
    counted: CountKind = "total"
    """What the target counts. body: without embeddings and output head; active: used per token."""
    active: str | int | None = None
    """Beside the target, for models with experts: parameters used per token, such as 1B."""
    tolerance: str = format_tolerance(DEFAULT_TOLERANCE)
    """How far off the target a model may be."""
    sizes: dict[str, Any] = {}
    """Sizes to search and choices to change, by field, as for solve; all others stay as they are."""


class RunArguments(MachineArguments, StepArguments):
    """The run to plan."""

    hours: float | None = None
    """Training time in hours. Without hours and tokens, 20 tokens per parameter."""
    tokens: str | int | None = None
    """Tokens to train on, such as 10B."""
    unique_tokens: str | int | None = None
    """Tokens in the text; a longer run repeats them. Unlimited unless given."""
    bytes_per_token: float | None = None
    """Mean bytes of a token; gives the loss in bits per byte too."""
    memory: str | None = None
    """Memory of one GPU to plan with, such as 24GB."""
    law: str | None = None
    """Loss law: besiroglu-2024 (the default), hoffmann-2022 or muennighoff-2023."""
    anchor: str | None = None
    """A measured run that losses and speed take their level from: the folder of a run, or text such as
    loss=3.21,tokens=400M,model=gpt2."""
    target_loss: float | None = None
    """A loss in nats per token: when the model reaches it, or without an anchor which run would tell."""

    def plan(self, models: list[ModelConfig]) -> RunPlan:
        """The plan of the first model, with those of the others."""
        first, *others = models
        return api.plan(
            first, self.build(), hours=self.hours, tokens=self.tokens, law=self.law,
            unique_tokens=self.unique_tokens, bytes_per_token=self.bytes_per_token, memory=self.memory,
            anchor=self.anchor, target_loss=self.target_loss, compare=others, **self.step_fields,
        )  # fmt: skip


class PlanArguments(RunArguments):
    """A model and the run to plan."""

    model: ModelArgument = Field(description=_MODELS)
    changes: dict[str, Any] = {}
    """Fields of the model to change, such as {"context_length": 8192}."""


class CompareArguments(RunArguments):
    """Several models and the run to plan."""

    models: list[ModelArgument] = Field(
        description=f"Two models or more, each {_MODELS}", json_schema_extra={"minItems": 2}
    )


@dataclass(frozen=True)
class Answer:
    """What a tool found, and what else there is to know."""

    document: Mapping[str, Any]
    notes: Iterable[str] = ()


def count(given: CountArguments) -> Answer:
    """Exact parameters of a transformer, component by component: total, body (without embeddings and output
    head) and active (used per token)."""
    resolved = _load(given.model, given.changes, given.style)
    document = count_document(count_parameters(resolved.model), resolved)
    if given.formula:
        document["formula"] = api.formula(resolved.model).as_dict()
    return Answer(document)


def solve(given: SolveArguments) -> Answer:
    """Models of a given size, or for a budget of hours, dollars, FLOPs or memory, by exhaustive search, with
    the certificate of what was searched. A machine or a budget adds predicted speed, memory, cost and
    loss."""
    limits = {"hours": given.hours, "dollars": given.dollars, "flops": given.flops, "memory": given.memory}
    budget = Budget(hours=given.hours, dollars=given.dollars, flops=given.flops, memory=given.memory)
    machine = given.build() if given.is_given else None
    found = api.solve(
        given.target, budget=None if budget == Budget() else budget, machine=machine, law=given.law,
        anchor=given.anchor, unique_tokens=given.unique_tokens, step=given.step_fields or None,
        active=given.active, counted=given.counted, tolerance=given.tolerance, rank=given.rank,
        top=given.top, like=given.like, style=given.style, **_axes(given, given.sizes, api.solve),
    )  # fmt: skip
    beside = {"law": given.law, "unique_tokens": given.unique_tokens, "anchor": given.anchor}
    flags = {**limits, **given.machine_flags, **beside, **given.step_fields}
    source = None if given.like is None else load(given.like, {}).model
    return Answer(solve_document(found, _without_none(flags), machine, like=given.like, source=source))


def resize(given: ResizeArguments) -> Answer:
    """A model brought to another size, one answer per direction (narrower, shallower, thinner, balanced, or
    wider, deeper, fatter, balanced), with what each changes. A machine adds predicted speed and memory."""
    machine = given.build() if given.is_given else None
    resolved = _load(given.current, {})
    found = api.resize(
        resolved.model, given.target, active=given.active, counted=given.counted, tolerance=given.tolerance,
        machine=machine, step=given.step_fields or None, **_axes(given, given.sizes, api.resize),
    )  # fmt: skip
    current = given.current if isinstance(given.current, str) else "YOUR_MODEL"
    flags = _without_none({**given.machine_flags, **given.step_fields})
    document = solve_document(found, flags, machine, current=current, source=resolved.model)
    return Answer(document, resolved.notes)


def plan(given: PlanArguments) -> Answer:
    """Memory, speed, cost, energy and expected loss of a training run, each with its interval and what it
    assumes; whether it fits, and what would make it fit."""
    resolved = _load(given.model, given.changes)
    return Answer(given.plan([resolved.model]).as_dict(), resolved.notes)


def compare(given: CompareArguments) -> Answer:
    """The plans of several models for the same run, in the same micro-steps and for the same context, so that
    speed, memory and loss are comparable."""
    if len(given.models) < 2:
        got = "1 model" if given.models else "no models"
        raise ConfigError(f"compare takes two models or more, and `models` has {got}; plan takes one")
    resolved = [_load_nth(n, model) for n, model in enumerate(given.models, 1)]
    found = given.plan([each.model for each in resolved])
    document: ComparisonDocument = {
        "plan": found.as_dict(), "compared": [other.as_dict() for other in found.compared],
    }  # fmt: skip
    notes = [f"model {n}: {note}" for n, each in enumerate(resolved, 1) for note in each.notes]
    return Answer(document, notes)


def _axes(given: _Arguments, sizes: Mapping[str, Any], verb: Callable[..., Any]) -> SearchFields:
    """The sizes and choices as keywords of a verb; raises `ConfigError` for an argument of the tool or of
    the verb."""
    own = type(given).model_fields.keys() - {"sizes"}
    taken = {each.name for each in signature(verb).parameters.values() if each.kind != each.VAR_KEYWORD}
    for name in sizes:
        ours = name if name in taken else SYNONYMS.get(name, name)
        if ours in own | taken:
            instead = f"give `{ours}` as an argument of its own" if ours in own else "leave it out"
            raise ConfigError(f"`sizes` takes sizes and choices of a model, and {name} is neither; {instead}")
    return cast(SearchFields, sizes)


def _without_none(flags: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in flags.items() if value is not None}


def _load(model: ModelArgument, changes: Mapping[str, Any], style: StyleName | None = None) -> ResolvedModel:
    """The model that is named or described, and how it was read."""
    if isinstance(model, str):
        return load(model, with_style(style, changes, complete=model))
    source = interpret(model, "the model")
    alone = "model" not in model and "model_type" not in model
    return resolve(source, with_style(style, changes, complete=None if alone else "the model"), "the model")


def _load_nth(number: int, model: ModelArgument) -> ResolvedModel:
    """One of several models; an error says which."""
    try:
        return _load(model, {})
    except ParambudgetError as error:
        raise ConfigError(f"model {number}: {error}") from error


_PYTHON: Final = {
    r"`help\(pb\.\w+\)`": "the `model` of an answer of count",
    r"`pb\.calibrate\(\)`": "`parambudget calibrate` in a shell",
    r"`pb\.ACCELERATORS`": "`parambudget gpus` in a shell",
    r"`pb\.PRESETS`": "`parambudget presets` in a shell",
    r"budget=pb\.Budget\((.*?)\)": r"\1",
    r"pb\.machine\((.*?)\)": r"\1",
    r"pb\.model\(style=(.*?), \.\.\.\)": r"the `model` that count answers for style=\1",
    r"a keyword of pb\.(solve|plan)": r"an argument of the tool \1",
    r"a keyword of pb\.(\w+)": r"an argument of `parambudget \1`, which is no tool here",
}
"""What an error of the library says to do in Python, and what an agent can do instead."""


def _for_agents(message: str) -> str:
    """An error of the library as it reads without Python at hand."""
    for python, instead in _PYTHON.items():
        message = re.sub(python, instead, message)
    return message


@dataclass(frozen=True)
class _Tool:
    """A function of this file as agents see it."""

    arguments: type[_Arguments]
    call: Callable[[Any], Answer]
    document: Any
    """The type of what it answers."""

    def describe(self) -> Tool:
        """Its name, what it does, and the schemas of what it takes and gives."""
        name = self.call.__name__
        return Tool(
            name=name, description=" ".join(str(self.call.__doc__).split()),
            input_schema=self.arguments.model_json_schema(),
            output_schema=json_schema(self.document, name),
            annotations=ToolAnnotations(
                read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
            ),
        )  # fmt: skip

    def answer(self, given: Mapping[str, Any]) -> CallToolResult:
        """What it finds, or the line that says why nothing."""
        try:
            found = self.call(self.arguments.read(given))
        except ParambudgetError as error:
            return CallToolResult(content=[TextContent(text=_for_agents(str(error)))], is_error=True)
        text = json_text(found.document)  # null for what is not finite
        notes = [TextContent(text=f"note: {note}") for note in found.notes]
        return CallToolResult(content=[TextContent(text=text), *notes], structured_content=json.loads(text))


TOOLS: Final = {
    tool.call.__name__: tool
    for tool in (
        _Tool(CountArguments, count, CountDocument), _Tool(SolveArguments, solve, SolveDocument),
        _Tool(ResizeArguments, resize, SolveDocument), _Tool(PlanArguments, plan, RunPlanDocument),
        _Tool(CompareArguments, compare, ComparisonDocument),
    )
}  # fmt: skip


async def _list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[tool.describe() for tool in TOOLS.values()])


async def _call_tool(_: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    if params.name not in TOOLS:
        text = f"unknown tool {short_repr(params.name)}; use {', '.join(TOOLS)}"
        return CallToolResult(content=[TextContent(text=text)], is_error=True)
    # In a thread: a search takes seconds, and the server goes on to answer.
    return await anyio.to_thread.run_sync(partial(TOOLS[params.name].answer, params.arguments or {}))


async def _serve() -> None:
    server = Server(
        "parambudget", version=__version__, instructions=INSTRUCTIONS, on_list_tools=_list_tools,
        on_call_tool=_call_tool,
    )  # fmt: skip
    async with stdio_server() as (read_stream, write_stream):
        await server.run(read_stream, write_stream, server.create_initialization_options())


def _end_at_once(*_: object) -> None:
    # The thread that reads standard input waits for the next line, and an orderly end would wait for it.
    try:
        os.write(2, b"parambudget: interrupted\n")
    finally:
        os._exit(130)


def serve() -> None:
    """Answer an agent on standard input and output until it closes them, or until Ctrl-C (exit code 130)."""
    signal.signal(signal.SIGINT, _end_at_once)  # SIGTERM ends the process at once as it is
    anyio.run(_serve)
