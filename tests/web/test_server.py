"""The server: on this machine only, for its own page only, and with a line for what goes wrong."""

import asyncio
import http.client
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing
from unittest.mock import ANY

import pytest
from support.page_server import start_server, stop_server

pytest.importorskip("nicegui", reason="the extra `web` is not installed")


@pytest.fixture
def port(server):
    return int(server.rpartition(":")[2].strip("/"))


def status(port, headers):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/", headers=headers)
        return connection.getresponse().status


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        pytest.param({}, 200, id="its own address"),
        pytest.param({"Host": "localhost:8750"}, 200, id="through a tunnel"),
        pytest.param({"Host": "evil.example"}, 403, id="a name that resolves to this machine"),
        pytest.param({"Host": "localhost:8750", "Origin": "http://evil.example"}, 403, id="another page"),
    ],
)
def test_only_its_own_page_gets_answers(port, headers, answer):
    assert status(port, headers) == answer


def test_a_web_socket_of_another_page_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            b"GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
            b"Origin: http://evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 403 " in connection.recv(200).partition(b"\r\n")[0]


def test_other_machines_cannot_reach_it(port):
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((own, port), timeout=10)


def test_a_port_that_is_taken_is_one_line(run, port):
    code, printed, errors = run("explore", "--no-open", "--port", port)
    assert (code, printed) == (2, "")
    assert errors == (
        f"parambudget: cannot listen on 127.0.0.1, port {port}: Address already in use; choose another "
        "--port, or leave it out for a free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--runs", "nothing-here"], "--runs nothing-here is not a folder"),
        (["no-such-model"], "unknown preset 'no-such-model'"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--host", "no.such.host.invalid", "--port", "0"], "another --host: use 127.0.0.1 for this machine"),
        (["--host", "192.0.2.1"], "another --host: use 127.0.0.1 for this machine"),
        (["--host", ""], "--host is empty; use 127.0.0.1 for this machine"),
        (["--port", "99999"], "port 99999: out of range"),
    ],
)
def test_what_cannot_be_served_is_one_line(run, arguments, problem):
    code, printed, errors = run("explore", "--no-open", *arguments)
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert problem in errors


def test_a_missing_extra_is_the_line_that_installs_it(run, monkeypatch):
    monkeypatch.setattr("parambudget._install.find_spec", lambda name: None if name == "nicegui" else name)
    code, _, errors = run("explore")
    assert code == 2
    assert "explore needs nicegui, not installed here; install with:" in errors


def test_browsers_that_leave_at_once_are_no_error(tmp_path):
    process, address = start_server(folder=tmp_path)
    port = int(address.rpartition(":")[2].strip("/"))
    asked = f"GET /_nicegui_ws/socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            # It is reset, not closed: the server learns of that before it has read the request.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(asked.encode())
    assert status(port, {}) == 200
    assert stop_server(process) == (0, ANY, "")


def test_what_fails_for_a_browser_is_passed_on_while_it_waits_and_dropped_when_it_has_left():
    """As when a file is sent compressed: its response stops when the browser leaves, before anything was
    sent, and the layers around it raise."""
    from parambudget.web.server import DisconnectsAreNoFaults

    async def fails(scope, receive, _send):
        while (await receive())["type"] != "http.disconnect" and scope["waits_for_the_end"]:
            pass
        raise RuntimeError("No response returned.")

    async def send(message):
        raise AssertionError(message)

    def serve(*, waits_for_the_end):
        messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

        async def receive():
            return next(messages)

        application = DisconnectsAreNoFaults(fails)
        asyncio.run(application({"type": "http", "waits_for_the_end": waits_for_the_end}, receive, send))

    serve(waits_for_the_end=True)
    with pytest.raises(RuntimeError, match="No response"):
        serve(waits_for_the_end=False)


def test_it_ends_without_a_traceback_however_often_it_is_interrupted():
    """`uv run` passes Ctrl-C on to a process that has got it already."""
    command = [sys.executable, "-m", "parambudget", "explore", "--no-open", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("parambudget explore: http://")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.03)
    _, errors = process.communicate(timeout=60)
    # The last one may come when Python has given the signal back.
    assert process.returncode in (0, -signal.SIGINT)
    assert errors == ""
