"""Training in processes of its own: to be sent signals, to be several."""

import multiprocessing
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from support.training_data import small_config, small_data, small_model

from parambudget.cli.main import main
from parambudget.errors import ParambudgetError
from parambudget.training.distributed import join_process_group
from parambudget.training.loop import TrainJob, train


def train_in(out: Path, text: Path, settings: Mapping[str, Any], largest_file: int | None = None) -> None:
    """Train in `out` or go on there, on one thread; no file may grow beyond `largest_file` bytes.

    What goes wrong is in `out`-error.txt.
    """
    sys.stderr = out.with_name(f"{out.name}-error.txt").open("w", buffering=1)
    torch.set_num_threads(1)
    data = small_data(text)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        train(TrainJob(small_model(), small_config(**settings), data, out, resume=True), device="cpu")
    except ParambudgetError as error:
        sys.exit(str(error))


PATIENCE_SECONDS = 120


class Together:
    """Starts processes as torchrun would, each with one thread, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # New processes need not import torch: the server that they are forked from has done it.
        self._processes = multiprocessing.get_context("forkserver")
        heavy = [
            "parambudget.training.loop",
            "parambudget.training.distributed",
            "parambudget.training.checkpoint.sharded",
        ]
        self._processes.set_forkserver_preload(["torch._dynamo", *heavy])

    def begin(
        self,
        n_processes: int,
        work: Callable[..., None],
        arguments: list[Any],
        limits: Mapping[int, int] = {},
    ) -> list[multiprocessing.Process]:
        """`work(arguments, folder, rank, environment, largest_file)` in each; `limits` are ranks' largest."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = []
        for rank in range(n_processes):
            environment = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            process = self._processes.Process(
                target=work, args=(arguments, self.folder, rank, environment, limits.get(rank))
            )
            process.start()
            started.append(process)
        return started

    def train(self, n_processes: int, out: str, *more: str, **limits: Any) -> list[int | None]:
        """The command of a run in some processes to the end; their exit codes."""
        return ended(self.begin_run(n_processes, out, *more, **limits))

    def begin_run(
        self, n_processes: int, out: str, *more: str, **limits: Any
    ) -> list[multiprocessing.Process]:
        """The command of a run in some processes."""
        command = ["train", "config.json", "--data", "text", "--device", "cpu", "--out", out, *more]
        return self.begin(n_processes, run_command, command, **limits)

    def said(self, rank: int = 0, to: str = "err") -> str:
        """What a process of the latest command printed."""
        return (self.folder / (f"{to}-{rank}.txt" if rank else f"{to}.txt")).read_text()


def ended(started: list[multiprocessing.Process]) -> list[int | None]:
    """The exit codes of processes, when all have ended."""
    for process in started:
        process.join(PATIENCE_SECONDS)
    return [process.exitcode for process in started]


def in_step(
    arguments: list[Any], folder: Path, rank: int, environment: Mapping[str, str], _limit: int | None
) -> None:
    """A function of this process's ranks and the folder; what goes wrong is in err.txt."""
    torch.set_num_threads(1)
    os.environ |= environment
    check, *more = arguments
    with (
        (folder / (f"err-{rank}.txt" if rank else "err.txt")).open("w") as err,
        join_process_group("cpu") as (ranks, _),
    ):
        try:
            check(ranks, folder, *more)
        except BaseException:
            traceback.print_exc(file=err)
            raise


def run_command(
    arguments: list[str], folder: Path, rank: int = 0, environment: Mapping[str, str] | None = None,
    largest_file: int | None = None,
) -> None:  # fmt: skip
    """The command line in `folder`, on one thread; what it prints is in out.txt and err.txt there."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # not as in tests that were started under nohup
    os.chdir(folder)
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), **(environment or {})}
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["parambudget", *arguments]
    of_rank = f"-{rank}" if rank else ""
    with Path(f"out{of_rank}.txt").open("w") as out, Path(f"err{of_rank}.txt").open("w") as err:
        sys.stdout, sys.stderr = out, err
        main()
