"""A web server that only shows: GET and HEAD, addresses that it was given, names of the machine that are its own.

It never makes a path of what a browser asks for: `Site` looks the address up. A page of another site that guesses the
port learns nothing: answers are for pages of this server alone, and a name that somebody else's DNS leads here
(rebinding) is refused, because such a request carries that name as its Host.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from halfmap.errors import InputError

FIRST_PORT, PORTS = 8642, 100  # tried one after the other
PATIENCE = 30.0  # seconds for a browser that says nothing
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"  # that a page may load
HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What stands at an address.

    kind: media type; content: makes the bytes, when they are wanted; tag: of this version of it, empty if every one is
    new; changed: seconds since 1970; policy: what a page may load, as Content-Security-Policy; lasting: whether an
    address never gets another content.
    """

    kind: str
    content: Callable[[], bytes]
    tag: str = ""
    changed: float | None = None
    policy: str = NOTHING
    lasting: bool = False


# The answer to a path and a query as they were asked for, or None where nothing stands there. Raises OSError where it
# cannot be read just now.
Site = Callable[[str, str], Answer | None]


class WebServer(ThreadingHTTPServer):
    """Serves a site. names: those that a request may call this machine by, beside localhost and addresses in figures,
    which no DNS leads anywhere."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, site: Site, names: frozenset[str] = frozenset()) -> None:
        self.site, self.names = site, names
        self.address_family, where = _resolved(host)
        super().__init__((where, port), _Handler)

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind, without asking a name server what this machine is called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers that hang up are none of our business; what else goes wrong is said in a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"halfmap: a request failed: {type(error).__name__}: {error}", file=sys.stderr)


def serving(host: str, port: int | None, site: Site, names: frozenset[str] = frozenset()) -> WebServer:
    """A server that listens at this port, or at the first free one from `FIRST_PORT`.

    Raises InputError for a host that is none of this machine, and where no port is free.
    """
    for one in [port] if port is not None else [*range(FIRST_PORT, FIRST_PORT + PORTS), 0]:
        try:
            return WebServer(host, one, site, names)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL or one == 0:
                raise InputError(f"--host {host}: cannot be listened at: {error.strerror or error}; give an address of "
                                 "this machine") from error
            if port is not None:
                raise InputError(f"--port {port}: cannot be used: {error.strerror or error}; give another one, or none "
                                 "to take a free one") from error
    raise AssertionError("port 0 is free or refused")


def _resolved(host: str) -> tuple[socket.AddressFamily, str]:
    """The family of a host's address, and the address in figures. Raises InputError where it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: is no address of this machine; give 127.0.0.1, or an address that others "
                         "reach it by") from error
    return found[0], str(found[4][0])


def _own_name(host: str, names: frozenset[str]) -> bool:
    """Whether the Host of a request means this server. Its port may be that of a tunnel."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    if not name:
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name == "localhost" or name.endswith(".localhost") or name in names


class _Handler(BaseHTTPRequestHandler):
    server: WebServer
    server_version, sys_version = "halfmap", ""
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def do_GET(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that is not read would be taken for the next request
        if not _own_name(self.headers.get("Host", ""), self.server.names):
            self._say(HTTPStatus.FORBIDDEN, "This server does not go by that name. If it is yours, start "
                      "halfmap watch with --allow-host NAME.")
            return
        try:
            asked = urlsplit(self.path)
            answer = self.server.site(asked.path, asked.query)
            if answer is None:
                self._say(HTTPStatus.NOT_FOUND, "Nothing here.")
            elif self._has(answer):
                self._send(HTTPStatus.NOT_MODIFIED, answer, b"")
            else:
                self._send(HTTPStatus.OK, answer, answer.content() if self.command == "GET" else None)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except (OSError, ValueError):
            self._say(HTTPStatus.NOT_FOUND, "Nothing here that can be read just now.")

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.close_connection = True
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, "This server only shows.", Allow="GET, HEAD")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _has(self, answer: Answer) -> bool:
        """Whether the browser has this version already."""
        known = self.headers.get("If-None-Match", "")
        return bool(answer.tag) and f'"{answer.tag}"' in [one.strip().removeprefix("W/") for one in known.split(",")]

    def _send(self, status: HTTPStatus, answer: Answer, content: bytes | None) -> None:
        """content: None where only the head is wanted."""
        told = {"Content-Type": answer.kind, "Content-Security-Policy": answer.policy,
                "Cache-Control": "private, max-age=31536000, immutable" if answer.lasting else "no-cache"}
        if answer.tag:
            told["ETag"] = f'"{answer.tag}"'
        if answer.changed is not None:
            told["Last-Modified"] = formatdate(answer.changed, usegmt=True)
        if content is not None and status is not HTTPStatus.NOT_MODIFIED:
            told["Content-Length"] = str(len(content))
        self._write(status, told, content or b"")

    def _say(self, status: HTTPStatus, text: str, **more: str) -> None:
        content = f"{text}\n".encode()
        told = {"Content-Type": "text/plain; charset=utf-8", "Content-Security-Policy": NOTHING,
                "Cache-Control": "no-store", "Content-Length": str(len(content)), **more}
        self._write(status, told, b"" if self.command == "HEAD" else content)

    def _write(self, status: HTTPStatus, told: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **told}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, in a line of text and with the same headers."""
        self.close_connection = True
        self._say(HTTPStatus(code), message or "Refused.")

    def log_message(self, format: str, *args: Any) -> None:
        """A line for every picture would bury the address."""
