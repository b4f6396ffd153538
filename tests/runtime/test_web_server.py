"""A server that only shows, and only to those who mean it."""

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halfmap.errors import InputError
from halfmap.runtime.contained import opened_below
from halfmap.runtime.web_server import FIRST_PORT, Answer, WebServer, serving


def site(path: str, query: str) -> Answer | None:
    if path == "/broken":
        raise PermissionError("no")
    if path == "/long":
        return Answer("text/plain", lambda: b"x" * 3_000_000)
    return Answer("text/plain", lambda: f"{path}?{query}".encode(), "v1", 1e9) if path.startswith("/here") else None


@contextmanager
def running(server: WebServer) -> Iterator[int]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(WebServer("127.0.0.1", 0, site, frozenset({"my.node"}))) as port:
        yield port


def asked(port: int, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    response.content = response.read()
    connection.close()
    return response


def test_what_is_there_is_shown_with_headers_that_keep_it_where_it_is(port: int) -> None:
    got = asked(port, "/here?a=1")
    assert (got.status, got.content) == (200, b"/here?a=1")
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in got.headers["Content-Security-Policy"]
    assert got.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in got.headers and "Python" not in str(got.headers)


def test_a_head_has_no_body_and_what_the_browser_has_is_not_sent_again(port: int) -> None:
    head = asked(port, "/here", "HEAD")
    assert (head.status, head.content, head.headers["ETag"]) == (200, b"", '"v1"')
    assert head.headers["Last-Modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    again = asked(port, "/here", If_None_Match='"old", "v1"')
    assert (again.status, again.content) == (304, b"")
    assert asked(port, "/here", If_None_Match='"v2"').status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_is_taken(port: int, method: str) -> None:
    got = asked(port, "/here", method)
    assert got.status == 405 and got.headers["Allow"] == "GET, HEAD"


def test_other_methods_and_nonsense_are_refused_in_a_line(port: int) -> None:
    got = asked(port, "/here", "BREW")
    assert got.status == 501 and got.content.count(b"\n") == 1 and b"<" not in got.content
    for raw in (b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(raw)
            assert b"Traceback" not in plain.recv(65536)
    assert asked(port, "/here").status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9999", "localhost", "LOCALHOST:80", "[::1]:8642", "10.1.2.3",
                                  "my.node", "my.node:1", "a.localhost"])
def test_names_that_are_this_machine_are_answered(port: int, host: str) -> None:
    assert asked(port, "/here", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "my.node.evil",
                                  "evil@", "", "[::1", "evil.example:8642", "xlocalhost",
                                  "127.0.0.1@evil.example"])
def test_names_that_somebody_led_here_are_not(port: int, host: str) -> None:
    got = asked(port, "/here", Host=host)
    assert got.status == 403 and b"/here" not in got.content and b"--allow-host" in got.content


def test_a_request_without_a_host_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET /here HTTP/1.0\r\n\r\n")
        assert plain.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_what_is_absent_or_unreadable_is_not_there(port: int, capsys) -> None:
    assert asked(port, "/nowhere").status == 404 and asked(port, "/broken").status == 404
    assert capsys.readouterr().err == ""


def test_the_body_of_a_request_is_not_taken_for_the_next_request(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        hidden = b"GET /here?hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
        plain.sendall(b"GET /here HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden)
        got = b""
        while piece := plain.recv(65536):
            got += piece
    assert got.count(b"HTTP/1.1 ") == 1 and b"?hidden" not in got


def test_browsers_that_hang_up_are_not_worth_a_word(port: int, capfd) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
            plain.recv(100)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert asked(port, "/here").status == 200
    assert capfd.readouterr().err == ""


def test_many_at_once_and_a_slow_one_are_all_served(port: int) -> None:
    got: list[int] = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(b"GET /he")
        threads = [threading.Thread(target=lambda: got.append(len(asked(port, "/long").content))) for _ in range(20)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(20)
        slow.sendall(b"re HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    assert got == [3_000_000] * 20


def test_a_port_that_is_taken_is_passed_over_unless_it_was_asked_for() -> None:
    with serving("127.0.0.1", None, site) as first, serving("127.0.0.1", None, site) as second:
        assert FIRST_PORT <= first.port < second.port
        with pytest.raises(InputError, match=rf"--port {first.port}: cannot be used: .*in use.*; give another one"):
            serving("127.0.0.1", first.port, site)


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_a_host_that_is_not_this_machine_is_one_clear_line(host: str) -> None:
    with pytest.raises(InputError, match=rf"--host {host}: "):
        serving(host, None, site)


def test_only_files_below_the_folder_are_opened_wherever_links_lead(tmp_path: Path) -> None:
    root = (tmp_path / "root").resolve()
    (root / "in").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (root / "in" / "file").write_text("fine")
    (root / "link").symlink_to(root / "in" / "file")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "round").symlink_to(root / "round")
    os.mkfifo(root / "pipe")
    for name in ("in/file", "link", "in/../in/file"):
        with opened_below(root, root / name) as stream:
            assert stream.read() == b"fine"
    for name in ("out", "folder/secret", "in/../../secret", "round", "pipe", "in", "missing", "in/file/more"):
        with pytest.raises(OSError), opened_below(root, root / name):
            pass
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "file").write_text("of a folder whose name begins alike")
    with pytest.raises(PermissionError), opened_below(root, tmp_path / "root2" / "file"):
        pass
