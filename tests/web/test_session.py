"""A newer request replaces an older one."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

import parambudget as pb

pytest.importorskip("nicegui", reason="the extra `web` is not installed")


def test_the_result_of_an_older_call_is_dropped():
    from parambudget.web.session import LatestCall

    release = threading.Event()

    def slow():
        release.wait(60)
        return "old"

    async def both():
        calls = LatestCall(SimpleNamespace(is_deleted=False))
        older = asyncio.create_task(calls.run(slow))
        await asyncio.sleep(0)
        newer = await calls.run(lambda: "new")
        release.set()
        return await older, newer

    assert asyncio.run(both()) == (None, "new")


def test_a_result_for_a_page_that_was_closed_is_dropped():
    from parambudget.web.session import LatestCall

    assert asyncio.run(LatestCall(SimpleNamespace(is_deleted=True)).run(lambda: "result")) is None


def test_a_call_that_was_dropped_has_no_result():
    from parambudget.web.session import LatestCall

    release = threading.Event()

    async def change_back():
        calls = LatestCall(SimpleNamespace(is_deleted=False))
        waiting = asyncio.create_task(calls.run(lambda: release.wait(60)))
        await asyncio.sleep(0)
        calls.drop()
        release.set()
        return await waiting

    assert asyncio.run(change_back()) is None


def test_an_exception_that_nobody_foresaw_is_one_line_and_its_traceback_is_logged(caplog):
    from parambudget.web.session import answer_or_error

    answer = answer_or_error(lambda: 1 // 0)
    assert isinstance(answer, pb.ParambudgetError)
    assert str(answer).startswith("ZeroDivisionError: integer division or modulo by zero; this is a defect")
    assert caplog.records[0].exc_info[0] is ZeroDivisionError
