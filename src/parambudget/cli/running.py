"""A run as the command line asks for it: text, settings and training, told before and after."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parambudget.arch.config import ModelConfig
from parambudget.cli._options import print_json, print_notice
from parambudget.errors import MissingExtra
from parambudget.formats.source import Source
from parambudget.training.config import TrainConfig
from parambudget.training.metrics import Step
from parambudget.training.signals import StopRequest

if TYPE_CHECKING:
    from rich.console import Console

    from parambudget.text.token_cache import TokenData
    from parambudget.training.device import Compute
    from parambudget.training.distributed import Ranks
    from parambudget.training.settings import ResolvedSettings

OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    model: ModelConfig
    source: Source
    """What the config file says; flags win over it."""
    run: dict[str, Any]
    """Provenance of the run to go on with, else of the one the config file is of: its text is meant."""
    flags: dict[str, Any]
    data: Path | None
    out: Path
    device: str
    resume: bool
    init: Path | None
    train_tokens: int | None
    hours: float | None
    as_json: bool
    wandb: str | None
    shard: bool | None
    """None: as the plan has it."""
    again: str
    """The command that goes on with this run."""


def run(device: str, request: Callable[[], Request], stopped: StopRequest) -> None:
    """Train in this process, or in step with the others that `torchrun` started beside it."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    # Alone there is nobody to tell, and torch takes seconds to come: what is wrong is said before.
    made = request() if alone else None
    import parambudget.text.dataset
    import parambudget.training.loop  # noqa: F401  torch, too
    from parambudget.training.device import kernels_told
    from parambudget.training.distributed import joined

    if alone:
        stopped.stop_at_once()
    with joined(device) as (ranks, device), kernels_told():
        with ranks.telling():
            asked = replace(ranks.first(made or request()), device=device)
        run_as(ranks, asked, stopped)


def run_as(ranks: "Ranks", asked: Request, stopped: StopRequest) -> None:
    """Read the text, fill in the settings, train; the leading process tells each of it before and after."""
    from parambudget.render import training as show
    from parambudget.render.progress import make_console
    from parambudget.render.training import watching
    from parambudget.training.forecast import predict_run
    from parambudget.training.loop import train as train_model

    to = make_console(quiet=asked.as_json or not ranks.leads)
    notice = print_notice if ranks.leads else _keep_silent
    with ranks.telling():
        compute, data, settings = _ready(ranks, asked, to, notice)
    config = settings.resolved.config
    planned = predict_run(asked.model, config, compute, ranks, shard=settings.shard)

    def introduce() -> None:
        to.print(show.introduction(asked.model, compute.name, data, asked.out))
        to.print(show.settings(settings.resolved, asked.model))

    stopped.at_once = False
    with (
        watching(to, config.steps, ranks.peak_flops(compute), compute.peak_memory_bytes, planned) as shown,
        _reported(shown, asked if ranks.leads else replace(asked, wandb=None), config) as on_step,
    ):
        result = train_model(
            asked.model, config, data, asked.out, device=asked.device, ranks=ranks, shard=settings.shard,
            resume=asked.resume, init=asked.init, provenance=settings.provenance, stopped=stopped,
            on_step=on_step, on_notice=notice, on_start=introduce,
        )  # fmt: skip
    to.print(show.conclusion(result, asked.model))
    if not result.finished:
        by = stopped.signal_name or "a signal to another process"
        notice(f"stopped by {by} after step {result.steps}; go on with: {asked.again}")
    if asked.as_json and ranks.leads:
        print_json(result.as_dict())


def _ready(
    ranks: "Ranks", asked: Request, to: "Console", notice: Callable[[str], None]
) -> "tuple[Compute, TokenData, ResolvedSettings]":
    """Device, text and settings; what can be known to be wrong is said before the text is read."""
    from parambudget.text.dataset import data_for
    from parambudget.training.dataloader import require_windows
    from parambudget.training.device import choose
    from parambudget.training.metrics import config_of
    from parambudget.training.run_folder import require_free, text_of_run, text_told, where
    from parambudget.training.settings import merge_sources, require_possible, resolve_settings
    from parambudget.training.train_state import require_init

    compute = choose(asked.device)
    if asked.shard:
        ranks.require_others()
    if asked.init is not None:
        require_init(asked.init)
    if ranks.leads:
        require_free(asked.out, resume=asked.resume)
    if asked.wandb is not None:
        _require_wandb()
    length = asked.train_tokens is not None or asked.hours is not None
    given = merge_sources(asked.source, asked.flags, longer=length)
    given = require_possible(asked.model, given, asked.out if asked.resume else None)
    text = asked.data or text_of_run(asked.run)
    ranks.meet()
    if asked.resume and (read := config_of(asked.out)) not in (None, asked.out / "config.json"):
        notice(f"{asked.out / 'config.json'} cannot be read; its copy in {read.parent.name} is written there")
    if compute.device.type == "cuda" and compute.peak_flops is None:
        notice(f"the peak of {compute.name} is not known here, so no MFU is given")
    with to.status("reading the text, training a tokenizer and encoding; they are kept for the next time"):
        data = ranks.leader_first(lambda: data_for(text, asked.model.vocab_size))
    require_windows(data, asked.model.context_length)
    if asked.data is None and not given.stored:
        text_told(asked.run, data, notice)
    with to.status("choosing the settings"):
        settings = resolve_settings(
            given, asked.model, data, compute, asked.train_tokens, asked.hours, ranks, shard=asked.shard
        )
    return compute, data, replace(settings, provenance=settings.provenance | where(text))


def _require_wandb() -> None:
    if find_spec("wandb") is None:
        raise MissingExtra(
            "--wandb needs wandb, which is not installed; run it as: uv run --extra train --extra wandb "
            "parambudget train ... (or: pip install 'parambudget[train,wandb]')"
        )
    from parambudget.training.wandb_logger import require_account

    require_account()


@contextmanager
def _reported(on_step: OnStep, asked: Request, config: TrainConfig) -> Iterator[OnStep]:
    """`on_step`, which also reports to Weights & Biases where that is asked for."""
    if asked.wandb is None:
        yield on_step
        return
    from parambudget.training.wandb_logger import tracked

    with tracked(on_step, asked.wandb, asked.out, asked.model.model_dump() | config.model_dump()) as both:
        yield both


def _keep_silent(_notice: str) -> None:
    """What a process that does not lead says."""
