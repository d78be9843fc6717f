"""The server of the page: on this machine only, unless it is told otherwise."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EADDRNOTAVAIL
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import ui
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parambudget.errors import InputError
from parambudget.web.address import PageState
from parambudget.web.page import Explorer, build_page
from parambudget.web.run_folders import RunFolders


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """What a browser on this machine opens."""
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return _is_loopback(self.host)


def listen(host: str, port: int | None, usual_port: int) -> tuple[socket.socket, Address]:
    """A socket that waits for browsers. Without a port it is the usual one, or where that is taken any free
    one; raises `InputError` where there is none."""
    if not host.strip():
        raise InputError(f"`host` is empty; {_HOSTS}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in [usual_port, 0] if port is None else [port]:
        waiting = socket.socket(family, socket.SOCK_STREAM)
        waiting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            waiting.bind((host, wanted))
            waiting.listen(128)
            return waiting, Address(host, waiting.getsockname()[1])
        except (OSError, OverflowError) as error:
            waiting.close()
            problem = error.strerror if isinstance(error, OSError) else "out of range"
            if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == EADDRNOTAVAIL:
                raise InputError(f"cannot listen on {host}: {problem}; another `host`: {_HOSTS}") from None
    where = host if port is None else f"{host}, port {port}"
    raise InputError(
        f"cannot listen on {where}: {problem}; choose another `port`, or leave it out for a free one"
    )


_HOSTS: Final = "use 127.0.0.1 for this machine alone, 0.0.0.0 for all, or an address that it has"


class _Server(uvicorn.Server):
    """A server that ends however often it is interrupted: uvicorn's raises every signal again while it
    closes."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End; browsers are waited for no longer than `timeout_graceful_shutdown`."""
        self.should_exit = True


def serve(
    waiting: socket.socket, address: Address, start: PageState, folders: Sequence[Path],
    on_ready: Callable[[], None],
) -> None:  # fmt: skip
    """Serve the page until the process is interrupted; `on_ready` is called when browsers get answers."""
    explorer = Explorer(start, RunFolders(folders))

    @ui.page("/", title="parambudget")
    def page(request: Request) -> None:
        build_page(explorer, request.url.query)

    application = FastAPI(openapi_url=None)
    application.add_middleware(OwnPagesOnly, address=address)
    application.add_middleware(DisconnectsAreNoFaults)
    nicegui_app.on_startup(on_ready)
    ui.run_with(
        application, title="parambudget", tailwind=False, show_welcome_message=False, dark=None,
        favicon=_ICON, language="en-US",
    )  # fmt: skip
    config = uvicorn.Config(
        application, log_level="error", access_log=False, ws="auto", timeout_graceful_shutdown=1
    )
    _Server(config).run(sockets=[waiting])


_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" '
    'fill="#0b5fae"/><path d="M7 24V15h4v9zM14 24V8h4v16zM21 24V12h4v12z" fill="#fff"/></svg>'
)


class OwnPagesOnly:
    """Refuses requests that another site's page makes: with a name that resolves to this machine (DNS
    rebinding), or across origins. Where the server is open to others it does not know its own names, and
    compares the two headers with each other."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self._app = app
        self._address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is our own page's."""
        if scope["type"] in ("http", "websocket") and not self._is_own(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                answer = PlainTextResponse("This page answers requests to its own address only.\n", 403)
                await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return False
        return not self._address.is_local or _is_loopback(_host_name(host))


class DisconnectsAreNoFaults:
    """Lets a request end without an answer when its browser has left, as a closed tab's has: layers below
    stop or stumble there, and others would report the missing answer as a fault of the server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, and what goes wrong while someone waits for the answer."""
        has_left = False

        async def receive_and_note() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        try:
            await self._app(scope, receive_and_note, send)
        except Exception:
            if not has_left:
                raise


def _is_loopback(host: str) -> bool:
    """Whether a name or address is one by which a machine reaches itself alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_name(host: str) -> str:
    """A Host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
