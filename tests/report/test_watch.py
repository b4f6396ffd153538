"""`halfmap watch`: the list of runs, their pages and pictures over HTTP."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from html import unescape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from fixtures.watched import BLOB, RECORD, Client, Got, run_in, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfmap.cli.program import main
from halfmap.maps.mrc import write_map
from halfmap.report.pages import watch
from halfmap.report.pages.refine import write_report
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pages.watch import WatchSite
from halfmap.runtime.lock import only_process
from halfmap.runtime.progress import Progress
from halfmap.workflows.watched_folders import WatchedFolder


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LEAST", 0.0)
    monkeypatch.setattr(watch, "SHARE", 1e9)


def test_the_list_has_every_run_with_state_resolution_picture_and_page(tmp_path: Path) -> None:
    run_in(tmp_path / "first")
    (tmp_path / "first" / "checkpoint" / "secret").mkdir(parents=True)
    odd = run_in(tmp_path / "sub" / "a & <b>ü#?%41", resolution=3.21)
    with served(tmp_path) as client:
        page = client.get("/")
        assert page.status == 200 and "a & <b>ü#?%41" not in page.text and "sub/a &amp; &lt;b&gt;ü#?%41" in page.text
        links = [unescape(one) for one in re.findall(r'href="(/run/[^"]+)"', page.text)]
        pictures = [unescape(one) for one in re.findall(r'src="(/picture/[^"]+)"', page.text)]
        assert len(links) == len(pictures) == 2
        shown = {link: client.get(link) for link in links}
        assert all(one.status == 200 and "Halfmap</title>" in one.text for one in shown.values())
        assert any(f"<h1>{odd.name}" in unescape(one.text) for one in shown.values())
        for one in pictures:
            got = client.get(one)
            assert got.headers["Content-Type"] == "image/png" and got.content.startswith(b"\x89PNG")
            assert "immutable" in got.headers["Cache-Control"]
        assert "3.21" in page.text and "Finished" in page.text and "iteration 3, final" in page.text


def test_only_pages_and_pictures_are_shown_however_one_asks(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run_in(root / "run")
    for name in ("settings.toml", "particles.star", ".report.html", "other.html"):
        (root / "run" / name).write_text("SECRET" if name != "other.html" else "<title>SECRET · Halfmap</title>")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "report.html").write_text("<title>SECRET · Halfmap</title>")
    (tmp_path / "secret.html").write_text("<title>SECRET · Halfmap</title>")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "run" / "compare.html").symlink_to(tmp_path / "secret.html")
    other = run_in(root / "other")
    (other / "map.mrc").unlink()
    (other / "map.mrc").symlink_to(tmp_path / "secret.html")
    asked = [
        "/run/run/settings.toml", "/run/run/particles.star", "/run/run/.report.html", "/run/run/other.html",
        "/run/run/compare.html", "/run/link/report.html", "/run/../outside/report.html",
        "/run/run/../../../secret.html", "/run/%2e%2e/outside/report.html", "/run/.%2e/outside/report.html",
        "/run/run/%2e%2e%2f%2e%2e%2fsecret.html", "/run/run%2f..%2f..%2foutside/report.html",
        "/run/..%2foutside/report.html", "/run/%252e%252e/outside/report.html", "/run/run/%c0%ae%c0%ae/secret.html",
        "/run/run\\..\\..\\outside/report.html", f"/run/{quote(str(tmp_path / 'outside'), safe='')}/report.html",
        "/run//etc/passwd", "//etc/passwd", "/../../etc/passwd", "/%2fetc%2fpasswd", "/run/%ff/report.html",
        "/run/run/report.html%00.png", "/run/run/report.html/", "/run/run/", "/run/run", "/run/", "/run",
        "/picture/run/report.html", "/picture/other/map.mrc", "/picture/other/map.png",
        "/picture/../secret.html/map.png", "/report.html", "/favicon.ico", "/static/x",
    ]  # fmt: skip
    with served(root) as client:
        for path in asked:
            got = client.get(path)
            assert got.status == 404 and "SECRET" not in got.text and "root:" not in got.text, path
        assert client.get("/run/run/report.html").status == 200
        page = client.get("/").text
        assert "SECRET" not in page and "compare" not in page and "link" not in re.findall(r'data-key="([^"]+)"', page)


def test_a_page_that_becomes_a_link_while_one_watches_is_not_followed(tmp_path: Path) -> None:
    run = run_in(tmp_path / "root" / "run")
    (tmp_path / "secret.html").write_text("<title>SECRET · Halfmap</title>")
    with served(tmp_path / "root") as client:
        assert client.get("/run/run/report.html").status == 200
        (run / "report.html").unlink()
        (run / "report.html").symlink_to(tmp_path / "secret.html")
        got = client.get("/run/run/report.html")
        assert got.status == 404 and "SECRET" not in got.text


def test_a_page_is_what_lies_on_the_disk_with_what_follows_it_put_in(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", finished=False)
    written = (run / "report.html").read_text()
    with served(tmp_path) as client:
        got = client.get("/run/run/report.html")
        inside = re.search(r"<body[^>]*>(<script>.*?</script>)", got.text, flags=re.S)
        assert inside is not None and got.text.replace(inside[1], "", 1) == written
        assert json.loads(re.search(r'get\("ETag"\) === ("[^;)]+")\)', inside[1])[1]) == got.headers["ETag"]
        assert "connect-src 'self'" in got.headers["Content-Security-Policy"]
        assert client.get("/run/run/report.html", If_None_Match=got.headers["ETag"]).status == 304
        time.sleep(0.01)
        write_report(run, Snapshot(records=[RECORD], map=BLOB, finished=True))
        assert client.get("/run/run/report.html", "HEAD").headers["ETag"] != got.headers["ETag"]


def test_only_what_has_changed_is_told_again(tmp_path: Path) -> None:
    run_in(tmp_path / "a")
    b = run_in(tmp_path / "b")
    with served(tmp_path) as client:
        first = client.changes()
        assert sorted(first["order"]) == sorted(first["rows"]) == ["a", "b"] and first["complete"]
        second = client.changes(first["as_of"])
        assert set(second) == {"now", "as_of"} and second["as_of"] == first["as_of"]
        run_in(tmp_path / "c", finished=False)
        run_in(b, resolution=5.5)
        third = client.changes(first["as_of"])
        assert sorted(third["rows"]) == ["b", "c"] and "5.50" in third["rows"]["b"] and len(third["order"]) == 3
        shutil.rmtree(tmp_path / "a")
        fourth = client.changes(third["as_of"])
        assert fourth["rows"] == {} and sorted(fourth["order"]) == ["b", "c"]
        for other in ("", "nonsense", "x-1", first["as_of"].replace("-", "0-"), "-", f"{first['as_of']}0x"):
            assert sorted(client.changes(other)["rows"]) == ["b", "c"], "of another session everything is told"


def test_a_run_at_work_comes_first_and_its_bar_moves(tmp_path: Path) -> None:
    for name in ("a", "z"):
        run_in(tmp_path / name)
    run = run_in(tmp_path / "m", finished=False)
    (run / "checkpoint").mkdir()
    os.utime(run / "log.txt", (1, 1))
    with served(tmp_path) as client, only_process(run / "checkpoint" / "lock", "x", "halfmap refine"):
        with Progress(open(os.devnull, "w")) as progress:
            progress.start_iteration(4, "local", 1000, 7.5, done=250)
        first = client.changes()
        assert first["order"][0] == "m" and 'data-state="running"' in first["rows"]["m"]
        assert "iteration 4, local · 25 %" in first["rows"]["m"] and 'style="width:25%"' in first["rows"]["m"]
        with Progress(open(os.devnull, "w")) as progress:
            progress.start_iteration(4, "local", 1000, 7.5, done=500)
        assert "50 %" in client.changes(first["as_of"])["rows"]["m"]


def test_ten_at_once_see_the_same(tmp_path: Path) -> None:
    for number in range(8):
        run_in(tmp_path / f"{number}")
    with served(tmp_path) as client:
        got: list[Got] = []
        paths = ["/", "/runs.json", *(f"/run/{n}/report.html" for n in range(4)),
                 *(f"/picture/{n}/map.png" for n in range(4))]
        threads = [threading.Thread(target=lambda path=path: got.append(client.get(path))) for path in paths * 3]
        for one in threads:
            one.start()
        for one in threads:
            one.join(30)
        assert [one.status for one in got] == [200] * 30


def test_while_one_looks_others_get_what_was_known(tmp_path: Path, monkeypatch) -> None:
    run_in(tmp_path / "run")
    site, looks, goes_on = WatchSite([tmp_path]), threading.Event(), threading.Event()
    assert len(site.runs()) == 1
    look = site._folders.look

    def slow(now: float) -> list[WatchedFolder]:
        looks.set()
        assert goes_on.wait(30)
        return look(now)

    monkeypatch.setattr(site._folders, "look", slow)
    run_in(tmp_path / "other")
    slower = threading.Thread(target=site.runs)
    slower.start()
    assert looks.wait(30) and len(site.runs()) == 1 and slower.is_alive()
    goes_on.set()
    slower.join(30)
    assert len(site.runs()) == 2


def test_a_thousand_runs_are_read_once_and_looked_at_quickly(tmp_path: Path, monkeypatch) -> None:
    page = b"<!doctype html>\n<title>x \xc2\xb7 Halfmap</title>\n<body>"
    for number in range(1000):
        run = tmp_path / f"{number:04d}"
        run.mkdir()
        (run / "report.html").write_bytes(page)
        (run / "iterations.jsonl").write_text(json.dumps(RECORD | {"search": "final"}) + "\n")
        (run / "log.txt").write_text("2031-01-01 00:00:00  halfmap 0.2.0\n2031-01-01 00:00:00  finished\n")
    site = WatchSite([tmp_path])
    assert len(site.runs()) == 1000
    drawn: list[str] = []
    monkeypatch.setattr(watch, "_drawn", lambda status, key: drawn.append(key) or "")
    began = time.process_time()
    assert len(site.runs()) == 1000 and drawn == []
    assert time.process_time() - began < 5, "a minute of waiting would be a fault of kind, not of the machine"


def test_broken_and_half_written_runs_are_listed_all_the_same(tmp_path: Path, capfd) -> None:
    run = run_in(tmp_path / "run")
    run_in(tmp_path / "gone")
    (run / "iterations.jsonl").write_bytes(b'{"iteration": 1e400, "search": [], "resolution_A": "x"}\n{"iter')
    (run / "map.mrc").write_bytes(b"\0" * 100)
    (run / "log.txt").write_bytes(b"\xff\xfe" * 50)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "log.txt").mkdir()
    os.mkfifo(tmp_path / "locked" / "report.html")
    (tmp_path / "no" / "checkpoint").mkdir(parents=True)
    (tmp_path / "no" / "log.txt").write_text("")
    with served(tmp_path) as client:
        page = client.get("/")
        assert page.status == 200 and set(client.changes()["rows"]) == {"run", "gone", "no"}
        assert client.get("/picture/run/map.png").status == 404
        shutil.rmtree(tmp_path / "gone")
        assert client.get("/run/gone/report.html").status == 404 and client.get("/").status == 200
        shutil.rmtree(run)
        shutil.rmtree(tmp_path / "no")
        assert client.changes()["order"] == []
        shutil.rmtree(tmp_path)
        assert client.get("/").status == 200
        tmp_path.mkdir()
    assert capfd.readouterr().err == ""


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.dictionaries(st.sampled_from(["title", "done", "total", "before", "began"]),
                            st.floats() | st.integers() | st.text(max_size=9) | st.none(), min_size=4),
       seconds=st.floats() | st.integers() | st.lists(st.none()))
def test_no_row_is_too_odd_to_be_drawn(tmp_path: Path, told: dict, seconds: object) -> None:
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True, exist_ok=True)
    record = {"iteration": seconds, "search": told.get("title"), "resolution_A": seconds, "seconds": {"solve": seconds}}
    (run / "iterations.jsonl").write_text(json.dumps(record) + "\n")
    (run / "log.txt").write_text("2031-01-01 00:00:00  halfmap 0.2.0\n")
    lock = json.dumps({"title": "iteration 1", "began": 1, "done": 1, "total": 2, "before": 0} | told)
    (run / "checkpoint" / "lock").write_text(f"halfmap refine, process 12 on elsewhere\n{lock}")
    assert len(WatchSite([tmp_path]).runs()) == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 1024, b"\xff" * 2000])
def test_what_is_no_map_has_no_picture(tmp_path: Path, content: bytes) -> None:
    run = run_in(tmp_path / "run")
    (run / "map.mrc").write_bytes(content)
    with served(tmp_path) as client:
        assert client.get("/picture/run/map.png").status == 404
        (run / "map.mrc").write_bytes(b"")
        write_map(run / "map.mrc", torch.from_numpy(BLOB * np.nan), 2.0)
        assert client.get("/picture/run/map.png").status == 404
        write_map(run / "map.mrc", torch.from_numpy(BLOB), 2.0)
        assert client.get("/picture/run/map.png").status == 200


def test_the_command_says_where_it_is_and_ends_quietly(tmp_path: Path, capsys) -> None:
    run_in(tmp_path / "run")
    command = [sys.executable, "-m", "halfmap", "watch", str(tmp_path)]

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs the tests may ignore it

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as process, ExitStack() as ending:
        ending.callback(process.kill)
        line, tunnel = process.stdout.readline(), process.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        assert f"ssh -N -L {port}:127.0.0.1:{port} " in tunnel
        assert Client(port).get("/run/run/report.html").status == 200
        assert main(["watch", str(tmp_path), "--port", str(port)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and f"--port {port}: cannot be used" in said.err
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("words", [["nowhere"], [".", "--port", "0"], [".", "--port", "70000"],
                                   [".", "--host", "a..b"], []])
def test_what_cannot_be_watched_is_one_line(tmp_path: Path, monkeypatch, capsys, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("halfmap: error: ") and said.count("\n") == 1
