"""Settings of all tests."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings
from support.optional_packages import ModuleOfTests, skip_without

from parambudget.errors import MissingExtra

# torch's profiler reads it once a process, whichever test is the first that profiles; as in `--profile`.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# A busy machine is no reason for a test to fail: none of them is about time. A commit is always tried with
# the same examples; `pytest --hypothesis-profile=random` tries others.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile("suite")


def pytest_pycollect_makemodule(module_path, parent):
    """A file whose optional packages are missing is skipped, not an error."""
    return ModuleOfTests.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """A test whose fixtures need a missing package is skipped."""
    return (yield from _skip_without_packages())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """A test that needs a missing package itself is skipped."""
    return (yield from _skip_without_packages())


def _skip_without_packages():
    try:
        return (yield)
    except (ModuleNotFoundError, MissingExtra) as error:
        skip_without(error)
        raise


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_ones_own(tmp_path_factory):
    """What the person who runs the tests has measured and described on their machine changes no test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_printed_as_outside_of_uv():
    """`uv run pytest` changes no test: which start a printed command gets is a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
        yield


@pytest.fixture(params=[1, pytest.param(4, marks=pytest.mark.slow)], ids=["few", "many"])
def examples(request):
    """Of a property, `n` in the suite and 4 times as many under the slow marker: `@examples(n)`."""
    return lambda n: settings(
        max_examples=n * request.param, suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given]
    )


@pytest.fixture(scope="module")
def one_thread():
    """Matrices this small are slower on several threads, and very slow where other tests compete for them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tokens of a small text."""
    from support.training_data import small_data

    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""
    from parambudget.cli.main import main

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["parambudget", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        skip_without(printed.err)
        return end.value.code, printed.out, printed.err

    return run_command
