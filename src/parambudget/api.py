"""The library's verbs: values are parsed here, once, and passed down.

Each verb imports the heavy modules it needs (numpy, sympy, torch) when it is called, not on import.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast, overload

from parambudget._install import CLASS_PACKAGES, TRAINING, require_packages
from parambudget.arch.config import FIELDS, KEYWORDS, ModelConfig
from parambudget.arch.style import with_style
from parambudget.arch.synonyms import SYNONYMS, hint_for, with_our_names
from parambudget.arch.validation import plain_numbers
from parambudget.cost.params import ParameterCount
from parambudget.cost.params import count as count_parameters
from parambudget.errors import ConfigError, InputError
from parambudget.formats.source import ModelLike, as_model, load_whole_function, source_in_words
from parambudget.search.options import DEFAULT_TOLERANCE, DEFAULT_TOP, CountKind, Rank, check_options
from parambudget.units import Count, parse_count, parse_tolerance, short_repr, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Unpack

    from parambudget.arch.fields import ModelFields
    from parambudget.arch.style import StyleName
    from parambudget.cost.formula import Formula
    from parambudget.cost.memory.peak import MemoryBreakdown
    from parambudget.cost.memory.state import InferenceMemory
    from parambudget.cost.speed.profile import DeviceProfile
    from parambudget.cost.step import StepConfig, StepFields
    from parambudget.formats.equivalence import Export
    from parambudget.formats.hf.class_count import ClassCount
    from parambudget.formats.targets import ExportTarget, GGUFDtype
    from parambudget.ladders.ladder import Ladder
    from parambudget.nn.verify import Verification
    from parambudget.planning.budget import Budget, Scenario
    from parambudget.planning.machine import Machine
    from parambudget.planning.measured_run import MeasuredRun
    from parambudget.planning.run_plan import RunPlan
    from parambudget.scaling.loss import LossLaw
    from parambudget.search.fields import SearchFields
    from parambudget.search.solutions import Solutions
    from parambudget.text.forms import TokenDtype
    from parambudget.training.config import TrainFields
    from parambudget.training.evaluation.results import Evaluation
    from parambudget.training.generate import Generation
    from parambudget.training.metrics import TrainResult
    from parambudget.training.run.end_loss import ForecastRequest
    from parambudget.training.run.request import TrainEvents


def model(
    source: ModelLike | None = None, /, *, style: StyleName | None = None, **fields: Unpack[ModelFields]
) -> ModelConfig:
    """A complete model from a source, from fields, or from a source with some fields changed.

    What is left out gets its conventional value: `model(dim=896, n_layers=24, n_heads=14)`. A `style` is a
    set of choices, "llama" (the default) or "modern", for a model without a source; fields win over it.
    """
    return as_model(source, fields, style)


def count(
    source: ModelLike | None = None, /, *, style: StyleName | None = None, **fields: Unpack[ModelFields]
) -> ParameterCount:
    """Parameters, exactly: `count("gpt2")`, `count(config)`, `count(dim=896, n_layers=24)`. A `style` is that
    of `model`."""
    return count_parameters(as_model(source, fields, style))


def count_class(source: str | PathLike[str], /) -> ClassCount:
    """Parameters of the class that the installed transformers has for a config.json, or a folder with one, of
    any kind: for types that `count` does not read. Needs torch and transformers; allocates no weights."""
    require_packages("count_class", CLASS_PACKAGES, ["transformers"])
    from parambudget.formats.hf.from_class import count_class as count_from_class

    return count_from_class(source)


def formula(
    source: ModelLike | None = None, /, *, style: StyleName | None = None, **fields: Unpack[ModelFields]
) -> Formula:
    """The closed form of the parameter count of a model's choices; renders itself in a notebook."""
    from parambudget.cost.formula import formula as closed_form

    return closed_form(as_model(source, fields, style))


def verify(
    source: ModelLike | None = None, /, *, style: StyleName | None = None, **fields: Unpack[ModelFields]
) -> Verification:
    """The built torch module held against the count, tensor by tensor; `differences` is empty where all
    agree."""
    require_packages("verify", ["torch"], ["train"])
    from parambudget.nn.verify import verify as build_and_compare

    return build_and_compare(as_model(source, fields, style))


def solve(
    target: Count | None = None, *, budget: Budget | None = None, machine: Machine | str | None = None,
    law: LossLaw | str | PathLike[str] | None = None, anchor: MeasuredRun | str | PathLike[str] | None = None,
    unique_tokens: Count | None = None, step: StepConfig | StepFields | None = None,
    active: Count | None = None, counted: CountKind = "total",
    tolerance: str | float | Fraction = DEFAULT_TOLERANCE, rank: Rank | None = None, top: int = DEFAULT_TOP,
    like: ModelLike | None = None, style: StyleName | None = None, **axes: Unpack[SearchFields],
) -> Solutions:  # fmt: skip
    """The best models of a size or for a budget, from a complete search of a declared lattice.

    `solve("350M", n_layers=24, head_dim=[64, 128], dim="256:4096:64")`. `target` counts the parameters that
    `counted` says; `active`, for models with experts, those used per token: `solve("8B", active="1B")`. A
    `budget` stands in the place of a target or beside it: `solve(budget=pb.Budget(hours=1.5),
    machine="h100")`, with `law` and `unique_tokens` for the expected loss. A machine alone adds predictions
    to each answer. `step` fixes how the update is executed that they are made for: a whole `StepConfig`, or
    some of its fields as a dict, `step={"batch_size": 16}`; the rest is chosen. `anchor` is a run that was
    measured, as in `plan`: expected losses and speeds are then at its level.

    Axes are a value, a list, or a range "lo:hi" or "lo:hi:step" (n_layers, dim, head_dim, n_heads, n_kv_heads
    or kv_groups, intermediate_size; n_experts, n_experts_per_token, n_shared_experts,
    expert_intermediate_size), bounded by ffn_ratio="1:6" and multiple=64; any other field of a model is a
    choice. What is left out follows `search.space.default_ranges`; `like` takes the choices of a model, and
    `style` those of a style: "llama" (the default) or "modern". Choices that are given win over both.

    Answers are ordered by `rank`; unless given, by the shape score with a target, by expected loss for hours,
    dollars or FLOPs, by size for a memory alone. "size" puts the most parameters first; "closest" ignores the
    tolerance.
    """
    named = _own_search_names(solve, axes)
    top = plain_numbers({"top": top})["top"]
    check_options(counted, rank, top)
    n, second = _parse_count(target, "target"), _parse_count(active, "active")
    share, fields = parse_tolerance(tolerance), _search_fields(named, like, style)
    predicts = any(each is not None for each in (budget, machine, law, anchor, unique_tokens, step))
    if not predicts and rank in (None, "shape", "closest"):
        if n is None:
            raise ConfigError(
                "there is nothing to solve for; give a target, or a budget: hours or dollars on a `machine`, "
                "FLOPs or memory"
            )
        from parambudget.search.solve import solve as search

        return search(
            n, fields, active=second, counted=counted, tolerance=share, top=top,
            rank="closest" if rank == "closest" else "shape",
        )  # fmt: skip
    from parambudget.planning.compute_budget import solve_for_budget

    scenario = _scenario(budget, machine, law, unique_tokens, step, anchor)
    if like is None and scenario.law.fit is not None:
        # Its losses are of one vocabulary and context alone, so without others these are meant.
        fit = scenario.law.fit
        fields = {"vocab_size": fit.vocab_size, "context_length": fit.context_length} | fields
    return solve_for_budget(
        scenario, n, fields, active=second,
        counted=counted, tolerance=share, rank=rank, top=top,
    )  # fmt: skip


def resize(
    current: ModelLike, target: Count, *, active: Count | None = None, counted: CountKind = "total",
    tolerance: str | float | Fraction = DEFAULT_TOLERANCE, machine: Machine | str | None = None,
    step: StepConfig | StepFields | None = None, **axes: Unpack[SearchFields],
) -> Solutions:  # fmt: skip
    """A model brought to another size, one answer per direction: narrower, shallower, thinner and balanced,
    or wider, deeper, fatter and balanced.

    Its choices, vocabulary, tying, head_dim and kv group stay; axes and choices given here replace those of
    the current model. A `machine` adds predictions to each answer, and `step` fixes the update as in `solve`.
    """
    from parambudget.search.resize import resize as search

    named = _own_search_names(resize, axes)
    check_options(counted, None, DEFAULT_TOP)
    answer = search(
        as_model(current, {}), parse_count(target, "target"), _search_fields(named),
        active=_parse_count(active, "active"), counted=counted, tolerance=parse_tolerance(tolerance),
    )  # fmt: skip
    if machine is None and step is None:
        return answer
    from parambudget.planning.compute_budget import add_forecasts

    scenario = _scenario(None, machine, None, None, step)
    return replace(answer, solutions=add_forecasts(answer, scenario))


def machine(
    gpu: str | None = None, *, gpus: int = 1, gpus_per_node: int | None = None, network: str | None = None,
    dollars_per_hour: float | None = None, gpu_memory: str | int | None = None,
    gpu_tflops: float | None = None, gpu_bandwidth: str | None = None,
    grid_intensity: float | None = None, stack: str | None = None, mfu: float | None = None,
) -> Machine:  # fmt: skip
    """What a run would be trained on: `machine("h100", gpus=8)`, "cpu", or without a name this machine.

    More GPUs than `gpus_per_node` (8 unless given) are several nodes of so many, connected by a `network` of
    so much per GPU: "400Gb/s" (bits) or "50GB/s" (bytes). `dollars_per_hour` is the price of one GPU, in
    place of a dated range; `grid_intensity` is in grams of CO2 equivalent per kWh, in place of the world's
    average.

    Speeds are those of the bundled trainer; of other training software by `stack` ("best", "typical",
    "eager", or the name of one, such as "torchtitan"), or by its model FLOPs utilization, `mfu=0.35` (full
    convention, of the dense peak).

    A GPU that `ACCELERATORS` does not have is described by three figures: its memory (bytes or "24GB"), its
    dense TFLOP/s in bfloat16 with 32-bit accumulation, and the bandwidth of its memory ("1008GB/s"; Gb/s are
    bits). `gpu` is then a name to show. Or it has a row in gpus.toml of the config folder: docs/planning.md.
    """
    from parambudget.planning.machine import machine_for

    return machine_for(
        gpu, gpus=gpus, gpus_per_node=gpus_per_node, network=network, dollars_per_hour=dollars_per_hour,
        gpu_memory=gpu_memory, gpu_tflops=gpu_tflops, gpu_bandwidth=gpu_bandwidth,
        grid_intensity=grid_intensity, stack=stack, mfu=mfu,
    )  # fmt: skip


def plan(
    source: ModelLike, /, machine: Machine | str | None = None, *, hours: float | None = None,
    tokens: Count | None = None, law: LossLaw | str | PathLike[str] | None = None,
    unique_tokens: Count | None = None,
    bytes_per_token: float | None = None, memory: str | int | None = None,
    anchor: MeasuredRun | str | PathLike[str] | None = None, target_loss: float | None = None,
    compare: Sequence[ModelLike] = (), **step: Unpack[StepFields],
) -> RunPlan:  # fmt: skip
    """What a training run would take and give: `plan("gpt2", "h100", hours=1.5, batch_size=16)`.

    Without a machine, this one; `memory` is the part of it that the run may use, such as "24GB". `law` is one
    of `scaling.loss.LOSS_LAWS` or its name. `step` fixes how an update is executed: batch_size (sequences per
    micro-step and device), gradient_accumulation_steps, gradient_checkpointing, loss_chunks, optimizer,
    shard; the rest is chosen. Models to `compare` are planned in the same micro-steps and for the same
    context, so that speed and memory are comparable, and stand in `compared` of the result. (A model with
    learned positions keeps its context: they are parameters.)

    `anchor` is a run that was measured, from which losses take their level and speeds too, where it ran on
    the machine: the folder of a finished run of `train`, text such as "loss=3.21,tokens=400M,model=gpt2" or
    "tokens-per-second=140000" (of this plan, or with a model of that), or a `MeasuredRun`. With `target_loss`
    in nats per token the plan says when the model reaches it, and without an anchor which run would tell.
    """
    from parambudget.cost.step import read_step_fields
    from parambudget.planning.budget import parse_memory
    from parambudget.planning.run_plan import Goal, plan_run

    fields = _own_step_names(plan, step)
    if isinstance(compare, str | PathLike | ModelConfig):
        raise ConfigError("`compare` is one model; give a list of models")

    whole, measured = as_model(source, {}), _measured_run(anchor)
    goal = Goal(
        hours, _parse_count(tokens, "tokens"),
        _parse_count(unique_tokens, "unique_tokens"), bytes_per_token,
        _law_at_its_level(law, measured), target_loss,
    )  # fmt: skip
    on = _machine(machine) if memory is None else _machine(machine).with_memory(parse_memory(memory))
    if measured is not None:
        on = measured.machine_for(
            on, whole, read_step_fields(fields, world_size=on.world_size), hours=goal.hours,
            tokens=goal.tokens, unique_tokens=goal.unique_tokens,
        )  # fmt: skip
    first = plan_run(whole, on, goal, fields)
    others = [_with_context(as_model(other, {}), first.model.context_length) for other in compare]
    same = first.step.step_fields
    return replace(first, compared=tuple(plan_run(other, on, goal, same) for other in others))


@overload
def memory(
    source: ModelLike, /, machine: Machine | str | None = None, *, mode: Literal["training"] = "training",
    context: int | None = None, **step: Unpack[StepFields],
) -> MemoryBreakdown: ...  # fmt: skip
@overload
def memory(
    source: ModelLike, /, machine: Machine | str | None = None, *, mode: Literal["inference"],
    context: int | None = None, **step: Unpack[StepFields],
) -> InferenceMemory: ...  # fmt: skip
def memory(
    source: ModelLike, /, machine: Machine | str | None = None, *,
    mode: Literal["training", "inference"] = "training", context: int | None = None,
    **step: Unpack[StepFields],
) -> MemoryBreakdown | InferenceMemory:  # fmt: skip
    """The memory that a model takes on each device: `memory("gpt2", "h100", batch_size=16)`.

    While it is trained on a machine (without one, this one), in the step that `step` fixes as for `plan`; or
    with `mode="inference"` the weights and the cache of keys and values in bfloat16, for `batch_size`
    sequences (1 unless given), which needs no machine. Sequences are `context` tokens long, else as long as
    the model takes.
    """
    fields = cast("StepFields", _own_step_names(memory, step))
    whole = as_model(source, {})
    if context is not None:
        from parambudget.planning.inference import check_context

        check_context(whole, context)
    if mode == "training":
        return plan(
            whole if context is None else whole.replace(context_length=context), machine, **fields
        ).memory
    if mode != "inference":
        raise ConfigError(f"`mode` is {mode!r}; use 'training' or 'inference'")
    from parambudget.cost.memory.state import inference_memory

    if unused := fields.keys() - {"batch_size"}:
        raise ConfigError(f"`{min(unused)}` is a setting of training; with mode='inference' use `batch_size`")
    return inference_memory(whole, fields.get("batch_size", 1), context or whole.context_length)


def _with_context(model: ModelConfig, context_length: int) -> ModelConfig:
    """The model for another context, where that changes none of its parameters."""
    return model if model.position == "learned" else model.replace(context_length=context_length)


def calibrate(device: str = "auto") -> DeviceProfile:
    """Measure in about a minute how fast a device trains; predictions for it then use the result.

    The result is kept in the user's data folder.
    """
    require_packages("calibrate", TRAINING, ["train"])
    from parambudget.cost.speed.profile import save_profile
    from parambudget.training.calibrate import calibrate as measure
    from parambudget.training.device import select_device

    profile = measure(select_device(device))
    save_profile(profile)
    return profile


def train(
    source: ModelLike, /, out: str | PathLike[str], *,
    data: str | PathLike[str] | Mapping[str, float] | None = None,
    token_dtype: TokenDtype | None = None, tokenizer: str | None = None, tokens: Count | None = None,
    hours: float | None = None, resume: bool = False, init: str | PathLike[str] | None = None,
    device: str = "auto", events: TrainEvents | None = None, eval_choices: str | PathLike[str] | None = None,
    eval_text: str | PathLike[str] | None = None,
    forecast: LossLaw | str | PathLike[str] | bool = False, **settings: Unpack[TrainFields],
) -> TrainResult:  # fmt: skip
    """Train a model and keep the run in `out`: `train("config.json", "runs/mine", hours=1.5)`.

    Prints nothing; `events` are called as the run goes on. `settings` are fields of `TrainConfig` and of its
    step and take precedence over those of a config file; the rest is chosen. `steps`, `tokens` or `hours` set
    the length. `data` is text, a folder of prepared tokens, or tokens of llm.c, Megatron-LM or nanoGPT (which
    need `token_dtype`); `tokenizer` has made these, or makes tokens of the text. With `resume`, the run in
    `out` is resumed if there is one. `init` is a checkpoint or a Hugging Face folder whose weights a new run
    starts from. `eval_choices` and `eval_text` are what the finished run is evaluated on, as by `evaluate`.

    With `forecast=True` the run says what its loss should end at, by its own curve and schedule: in
    `RunStart.forecast` while it goes on, and in `forecast` of the result. With the law of a ladder, or its
    file, it is compared with what that law says of the run.

    A dict as `data`, {"web": 0.7, "books": 0.3}, is a mixture of several by weight.

    Without `data`, the text is that of the run to resume, else the source of Python's standard library, which
    is then read at most 20 times; `data="builtin"` names it for a longer run.
    """
    require_packages("train", TRAINING, ["train"])
    from parambudget.cost.step import SHARDING_FIELDS, Sharding
    from parambudget.training.config import TRAIN_FIELDS
    from parambudget.training.run.orchestration import run
    from parambudget.training.run.request import RunOptions, build_request

    sharding = Sharding.given_by(settings.get("shard"), settings.get("shard_degree"))
    own = {name: value for name, value in settings.items() if name not in SHARDING_FIELDS}
    fixed = with_our_names(own, TRAIN_FIELDS)
    for name in fixed:
        if name == "style":
            raise ConfigError(_style_elsewhere(train, fixed[name]))
        if name not in TRAIN_FIELDS:
            hint = _hint(train, name, {*TRAIN_FIELDS, *SHARDING_FIELDS}, "see `help(pb.TrainConfig)`")
            raise ConfigError(f"{shorten(name)} is not a setting of a run; {hint}")
    options = RunOptions(
        out=Path(out), data=_data_source(data), token_dtype=token_dtype,
        tokenizer=tokenizer, tokens=_parse_count(tokens, "tokens"),
        hours=hours, resume=resume, init=None if init is None else Path(init), sharding=sharding,
        eval_choices=None if eval_choices is None else Path(eval_choices),
        eval_text=None if eval_text is None else Path(eval_text), forecast=_forecast_request(forecast),
    )  # fmt: skip
    named = fspath(source) if isinstance(source, str | PathLike) else as_model(source, {})
    return run(lambda: build_request(named, {}, fixed, options), device=device, events=events)


def _forecast_request(given: LossLaw | str | PathLike[str] | bool) -> ForecastRequest | None:
    from parambudget.scaling.law_file import find_law
    from parambudget.training.run.end_loss import ForecastRequest

    if isinstance(given, bool):
        return ForecastRequest() if given else None
    return ForecastRequest(find_law(given))


def _data_source(data: str | PathLike[str] | Mapping[str, float] | None) -> Path | None:
    """The text of a run as it is named on the command line."""
    if not isinstance(data, Mapping):
        return None if data is None else Path(data)
    from parambudget.text.mixture import MixtureSource, format_mixture, read_shares

    sources = [MixtureSource(Path(path), str(weight)) for path, weight in data.items()]
    if len(sources) < 2:
        raise ConfigError("`data` is a mixture of fewer than two sets; give the path of the set alone")
    read_shares(sources)
    return format_mixture(sources)


def run(folder: str | PathLike[str]) -> TrainResult:
    """The state of a run in its folder, whether it has finished or goes on: what `train` returned."""
    from parambudget.training.metrics import read_run

    return read_run(Path(folder)).result()


@overload
def generate(
    checkpoint: str | PathLike[str], prompt: str, *, num_samples: None = None, max_tokens: int = 256,
    temperature: float = 0.8, top_k: int | None = None, top_p: float | None = None, seed: int = 0,
    device: str = "auto", on_notice: Callable[[str], None] = lambda _: None,
) -> Generation: ...  # fmt: skip
@overload
def generate(
    checkpoint: str | PathLike[str], prompt: str, *, num_samples: int, max_tokens: int = 256,
    temperature: float = 0.8, top_k: int | None = None, top_p: float | None = None, seed: int = 0,
    device: str = "auto", on_notice: Callable[[str], None] = lambda _: None,
) -> tuple[Generation, ...]: ...  # fmt: skip
@overload
def generate(
    checkpoint: str | PathLike[str], prompt: list[str], *, num_samples: int | None = None,
    max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = None, top_p: float | None = None,
    seed: int = 0, device: str = "auto", on_notice: Callable[[str], None] = lambda _: None,
) -> tuple[Generation, ...]: ...  # fmt: skip
def generate(
    checkpoint: str | PathLike[str], prompt: str | list[str], *, num_samples: int | None = None,
    max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = None, top_p: float | None = None,
    seed: int = 0, device: str = "auto", on_notice: Callable[[str], None] = lambda _: None,
) -> Generation | tuple[Generation, ...]:  # fmt: skip
    """Continue a prompt: `generate("runs/mine", "def main(").text`.

    The checkpoint is the folder of a run, one of its checkpoints, or a Hugging Face folder. A `temperature`
    of 0 always takes the most likely token; `top_k` samples from so many of the most likely ones only,
    `top_p` from the fewest whose probabilities sum to that share. Beyond its context a model sees the last
    tokens only: `n_dropped` of the result says what it no longer sees.

    A list of prompts, or `num_samples` texts of each, gives a tuple, prompt by prompt; the model is loaded
    once. The i-th text is sampled with `seed` + i. `on_notice` gets what else there is to know, such as an
    argument that changes nothing beside another.
    """
    require_packages("generate", TRAINING, ["train"])
    from parambudget.training.device import select_device
    from parambudget.training.generate import (
        SamplingParams,
        generate_texts,
        load_checkpoint,
        params_without_effect,
    )

    params = SamplingParams(max_tokens, temperature, top_k, seed, top_p)
    for notice in params_without_effect(params, num_samples):
        on_notice(notice)
    loaded = load_checkpoint(Path(checkpoint), select_device(device), on_notice)
    if isinstance(prompt, str) and num_samples is None:
        (single,) = generate_texts(loaded, [prompt], params)
        return single
    prompts = [prompt] if isinstance(prompt, str) else prompt
    return tuple(generate_texts(loaded, prompts, params, 1 if num_samples is None else num_samples))


def export(
    source: ModelLike | None = None, to: ExportTarget = "hf", *, out: str | PathLike[str] | None = None,
    weights: str | PathLike[str] | None = None, model_type: str | None = None, dtype: GGUFDtype | None = None,
) -> Export:  # fmt: skip
    """The model as another tool's config: `export("config.json", "litgpt", out="folder")`.

    Tools are "hf" (transformers), "gguf" (llama.cpp), "litgpt", "megatron" and "torchtitan" (with the
    settings of a run's config file); what one cannot express is refused, with the reason. With `out`, the
    file and a model card are written into that folder. `weights` is a run, a checkpoint or a Hugging Face
    folder, whose weights and tokenizer are written as well ("hf" and "gguf"; its model is exported, and
    `source` may be left out). `model_type` asks for one class of
    transformers, `dtype` for the numbers of a GGUF file ("f32" by default).
    """
    from parambudget.formats.targets import GGUF_DTYPES, WITH_WEIGHTS

    if dtype is not None and dtype not in GGUF_DTYPES:
        raise ConfigError(f"`dtype` is {dtype!r}; use {', '.join(map(repr, GGUF_DTYPES))}")
    if dtype is not None and to != "gguf":
        raise ConfigError(f"`dtype` is how a GGUF file stores matrices, and `to` is {to!r}; leave it out")
    if weights is None:
        from parambudget.training.exports.configs import export_for, write_config

        model = _whole_function(source)
        settings = fspath(source) if isinstance(source, str | PathLike) else None
        made = export_for(model, to, model_type, settings)
        if out is None:
            return made
        _, kept = write_config(Path(out), made, model, to)
        return replace(made, notes=(*made.notes, *kept))
    if to not in WITH_WEIGHTS or out is None:
        raise ConfigError(
            "`weights` are written for transformers or llama.cpp into a new folder; use to='hf' or 'gguf', "
            "and `out`"
        )
    require_packages("`weights`", TRAINING, ["train"])
    if to == "gguf":
        require_packages("to='gguf'", ["gguf"], ["gguf"])
    from parambudget.training.device import select_device
    from parambudget.training.exports.weights import export_weights, require_same_model
    from parambudget.training.generate import load_checkpoint

    loaded = load_checkpoint(Path(weights), select_device("cpu"))
    if source is not None:
        require_same_model(_whole_function(source), loaded)
    exported = export_weights(loaded, Path(out), to, model_type, dtype or "f32")
    return replace(exported.made, notes=exported.notes)


def _whole_function(source: ModelLike | None) -> ModelConfig:
    if isinstance(source, str | PathLike):
        return load_whole_function(fspath(source), {}).model
    return as_model(source, {})


def evaluate(
    checkpoint: str | PathLike[str], *, choices: str | PathLike[str] | None = None,
    text: str | PathLike[str] | None = None, token_dtype: TokenDtype | None = None, device: str = "auto",
    on_notice: Callable[[str], None] = lambda _: None,
) -> Evaluation:  # fmt: skip
    """What a trained model reaches: `evaluate("runs/mine", choices="hellaswag_val.jsonl").choices.acc_norm`.

    The checkpoint is the folder of a run, one of its checkpoints, or a Hugging Face folder. `choices` is a
    file of JSON lines with context (or ctx), endings and label; `text` a held-out text or tokens in any form
    that `train` reads, of which `token_dtype` is the type where the files have no header. Without both, the
    held-out text of the run is read, all of it. The result is also kept in eval.json of the run; `on_notice`
    gets what else there is to know.
    """
    require_packages("evaluate", TRAINING, ["train"])
    from parambudget.training.device import select_device
    from parambudget.training.evaluation.evaluate import EvaluationRequest
    from parambudget.training.evaluation.evaluate import evaluate as evaluate_checkpoint

    request = EvaluationRequest(
        None if choices is None else Path(choices), None if text is None else Path(text), token_dtype
    )
    return evaluate_checkpoint(
        Path(checkpoint), select_device(device), request, on_notice=on_notice
    )  # fmt: skip


def plan_ladder(
    budget: Budget | None = None, machine: Machine | str | None = None, *,
    data: str | PathLike[str] = "builtin", out: str | PathLike[str], target: ModelLike | None = None,
    tokens: Count | None = None, share: str | float = "10%", sizes: int = 5, seeds: int = 2,
    ratios: Sequence[float] | None = None, style: StyleName | None = None, **axes: Unpack[SearchFields],
) -> Ladder:  # fmt: skip
    """Small runs that tell what a large one will reach, planned into the folder `out`:
    `plan_ladder(pb.Budget(hours=1.5), "h100", data="text", out="ladder").run()`.

    The large run is the best one for the budget on the machine (unless given, this one), with the choices and
    axes of `solve`; or that of a `target` for the budget or for so many `tokens`. The small ones are `sizes`
    models of its family, each at some `ratios` of tokens per parameter (unless given, half and one and a half
    times that of the large run) with so many `seeds`, for at most a `share` of its FLOPs. `run()` trains
    them, and `fit()` gives the law.
    """
    require_packages("plan_ladder", ["tokenizers"], ["train"])
    from parambudget.ladders.design import LadderRequest
    from parambudget.ladders.ladder import Ladder
    from parambudget.ladders.ladder_file import require_free_ladder_folder
    from parambudget.ladders.ladder_plan import choose_target, design_ladder, parse_share, require_length
    from parambudget.planning.budget import Budget, Scenario
    from parambudget.text.dataset import data_for

    fields = _search_fields(_own_search_names(plan_ladder, axes), style=style)
    model = None if target is None else _whole_function(target)
    if model is not None and fields:
        raise ConfigError(f"`{min(fields)}` is for a search, and `target` is a complete model; leave one out")
    n_tokens, folder, spent = _parse_count(tokens, "tokens"), Path(out), budget or Budget()
    require_length(spent, model, n_tokens)
    request = LadderRequest(
        parse_share(share), sizes, seeds, None if ratios is None else tuple(map(float, ratios))
    )
    on = _machine_or_none(machine, spent)
    require_free_ladder_folder(folder)
    vocab_size = (
        model.vocab_size if model is not None else fields.get("vocab_size", FIELDS["vocab_size"].default)
    )
    text = data_for(_data_source(data), cast("int", vocab_size))
    scenario = Scenario(spent, on, unique_tokens=None if n_tokens is not None else text.n_unique_tokens)
    large = choose_target(scenario, text, model, n_tokens, fields)
    plan = design_ladder(large, request, on, text, Path(data))
    plan.write(folder)
    return Ladder(folder, plan)


def _parse_count(given: Count | None, name: str) -> int | None:
    return None if given is None else parse_count(given, name)


def _search_fields(
    axes: Mapping[str, object], like: ModelLike | None = None, style: StyleName | None = None
) -> dict[str, object]:
    """The axes and choices that are given, over the choices of a model or of a style."""
    # None is a value of fields that may be absent: it takes back what the style says.
    stated = {name: v for name, v in axes.items() if v is not None or _may_be_absent(name)}
    complete = None if like is None else source_in_words(like)
    given = {name: v for name, v in with_style(style, stated, complete=complete).items() if v is not None}
    if like is None:
        return given
    from parambudget.search.space import choices_like

    return choices_like(as_model(like, {}), given)


def _may_be_absent(name: str) -> bool:
    """Whether None is a value of that field of a model."""
    return name in FIELDS and FIELDS[name].default is None


def _own_search_names(verb: Callable[..., object], axes: SearchFields) -> dict[str, object]:
    """The axes and choices by our names; raises `ConfigError` for a keyword that is neither."""
    known = KEYWORDS | {"kv_groups", "ffn_ratio", "multiple"}
    named = with_our_names(axes, known)
    for name in named:
        if name in known:
            continue
        if name == "current":
            raise ConfigError("solve takes no current model; use resize(current, target)")
        if name == "style":
            raise ConfigError(_style_elsewhere(verb, named[name]))
        if verb is resize and name in inspect.signature(solve).parameters:
            raise ConfigError(
                f"resize takes no {name}: it gives one answer per direction, and a model's size has no other "
                "budget; leave it out, or use solve"
            )
        if instead := _instead_of(verb, name, named):
            raise ConfigError(instead)
        hint = _hint(verb, name, known, "use an axis or a field of a model, see `help(pb.ModelConfig)`")
        raise ConfigError(f"unknown field {short_repr(name)}; {hint}")
    return named


def _own_step_names(verb: Callable[..., object], step: StepFields) -> dict[str, object]:
    """The settings of an update by our names; raises `ConfigError` for a keyword that is none."""
    from parambudget.cost.step import STEP_FIELDS, require_step_names

    named = with_our_names(step, STEP_FIELDS)
    for name in named:
        if name not in STEP_FIELDS and (instead := _instead_of(verb, name, named)):
            raise ConfigError(instead)
    require_step_names(named, _keywords(verb))
    return named


def _keywords(verb: Callable[..., object]) -> list[str]:
    """The arguments that a verb takes by name."""
    return [
        each.name for each in inspect.signature(verb).parameters.values() if each.kind != each.VAR_KEYWORD
    ]


def _instead_of(verb: Callable[..., object], name: str, given: Mapping[str, object]) -> str | None:
    """What to write instead of a keyword that is another verb's or the command line's: parts of the budget,
    of the machine, of the update and of a run; None for a name that is nobody's."""
    from parambudget.cost.step import STEP_FIELDS
    from parambudget.training.config import TRAIN_FIELDS

    taken, ours = _keywords(verb), SYNONYMS.get(name, name)
    start, value = f"{verb.__name__} takes no {short_repr(name)}", short_repr(given[name])
    if name == "style":
        return _style_elsewhere(verb, given[name])
    if ours in ("hours", "dollars", "flops", "memory") and "budget" in taken:
        return f"{start}; give `budget=pb.Budget({ours}={value})`"
    if ours in ("gpu", *_MACHINE_KEYWORDS) and "machine" in taken:
        return f"{start}; give `machine={_machine_in_words(given)}`"
    if ours in STEP_FIELDS and "step" in taken:
        return f"{start}: it is a setting of an update, which `step` fixes: give step={{{ours!r}: {value}}}"
    if ours in ("dollars", "flops") and "hours" in taken:
        return f"{start}; the length of the run is given by `hours` or `tokens`"
    for other in (train, solve, plan, generate):
        if ours in _keywords(other) or (other is train and ours in TRAIN_FIELDS):
            return f"{start}; {'it' if ours == name else ours} is a keyword of pb.{other.__name__}"
    return None


def _style_elsewhere(verb: Callable[..., object], value: object) -> str:
    """Where a style is chosen, for a verb whose model is complete."""
    chosen = f"pb.model(style={short_repr(value)}, ...)"
    return f"{verb.__name__} takes no style: its model is complete; choose one with the model, as in {chosen}"


_MACHINE_KEYWORDS: Final = {
    "gpus": "gpus", "world_size": "gpus", "ranks": "gpus", "gpus_per_node": "gpus_per_node",
    "dollars_per_hour": "dollars_per_hour", "price": "dollars_per_hour", "gpu_memory": "gpu_memory",
    "gpu_tflops": "gpu_tflops", "gpu_bandwidth": "gpu_bandwidth",
    "grid_intensity": "grid_intensity", "network": "network", "stack": "stack", "mfu": "mfu",
}  # fmt: skip
"""What `machine` takes, by the names that people give a verb for it."""


def _machine_in_words(given: Mapping[str, object]) -> str:
    """The machine that these keywords mean, as an argument."""
    from parambudget.cost.hardware import parse_accelerator

    gpu = str(given.get("gpu", "h100"))
    with suppress(InputError):
        gpu = parse_accelerator(gpu).name if "gpu" in given else gpu
    parts = {SYNONYMS.get(name, name): value for name, value in given.items()}
    options = [
        f"{_MACHINE_KEYWORDS[name]}={short_repr(parts[name])}" for name in _MACHINE_KEYWORDS if name in parts
    ]
    return f'"{shorten(gpu)}"' if not options else f'pb.machine("{shorten(gpu)}", {", ".join(options)})'


def _hint(verb: Callable[..., object], name: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a keyword that a verb does not know."""
    return hint_for(name, {*known, *_keywords(verb)}, otherwise)


def _scenario(
    budget: Budget | None, machine: Machine | str | None, law: LossLaw | str | PathLike[str] | None,
    unique_tokens: Count | None, step: StepConfig | StepFields | None,
    anchor: MeasuredRun | str | PathLike[str] | None = None,
) -> Scenario:  # fmt: skip
    from parambudget.planning.budget import Budget, Scenario

    spent = budget or Budget()
    on_machine = machine is not None or spent.hours is not None or spent.dollars is not None
    on = _machine(machine) if on_machine else None
    measured = _measured_run(anchor)
    if measured is not None and on is not None:
        on = measured.machine_at_its_speed(on)
    elif measured is not None and measured.loss is None:
        raise InputError("the anchor has tokens per second alone, which are of a machine; give `machine` too")
    return Scenario(
        spent, on, _law_at_its_level(law, measured), _parse_count(unique_tokens, "unique_tokens"),
        _step_fields(step, 1 if on is None else on.world_size),
    )  # fmt: skip


def _step_fields(step: StepConfig | StepFields | None, world_size: int) -> StepFields:
    """What is decided of the update on so many devices: all of a `StepConfig`, or the fields given."""
    from parambudget.cost.step import STEP_FIELDS, StepConfig, read_step_fields

    if isinstance(step, StepConfig):
        if step.world_size not in (1, world_size):
            raise ConfigError(
                f"step has world_size={step.world_size} and the machine {world_size}; leave world_size out, "
                "or give a `machine` with as many GPUs"
            )
        return read_step_fields(step.step_fields, world_size=world_size)
    if step is not None and not isinstance(step, Mapping):
        raise ConfigError(f"step is {short_repr(step)}; give a StepConfig or a dict of some of its fields")
    return read_step_fields(with_our_names(step or {}, STEP_FIELDS), world_size=world_size)


def _machine(given: Machine | str | None) -> Machine:
    return machine(given) if given is None or isinstance(given, str) else given


def _machine_or_none(given: Machine | str | None, budget: Budget) -> Machine | None:
    """The machine, or this one; None where nobody knows how fast this one is, and nothing depends on it."""
    needs_speed = budget.hours is not None or budget.dollars is not None
    try:
        return _machine(given)
    except InputError:
        if given is not None or needs_speed:
            raise
        return None


def _measured_run(given: MeasuredRun | str | PathLike[str] | None) -> MeasuredRun | None:
    if given is None:  # without one, nothing that reads runs is imported
        return None
    from parambudget.training.anchor_source import measured_run

    return measured_run(given)


def _law_at_its_level(given: LossLaw | str | PathLike[str] | None, measured: MeasuredRun | None) -> LossLaw:
    from parambudget.scaling.law_file import find_law

    law = find_law(given)
    return law if measured is None else measured.law_at_its_level(law)
