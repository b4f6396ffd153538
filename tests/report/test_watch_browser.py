"""`halfmap watch` in a real browser: its scripts run under its policies, and follow what changes."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.watched import Client, run_in, served

from halfmap.report.pages import watch
from halfmap.report.pages.watch import WatchSite
from halfmap.runtime.web_server import Answer

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LEAST", 0.0)
    monkeypatch.setattr(watch, "SHARE", 1e9)


def browsed(client: Client, path: str, folder: Path, budget: int = 9000) -> str:
    """The page as a browser has it after so many milliseconds."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--virtual-time-budget={budget}",
               "--dump-dom", f"--user-data-dir={folder / 'profile'}", f"http://127.0.0.1:{client.port}{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@contextmanager
def changed_after(path: str, change: Callable[[], object], *roots: Path) -> Iterator[Client]:
    """Serve runs, of which something changes once a browser has got what is at the path."""
    pending = [change]

    class Changing(WatchSite):
        def __call__(self, asked: str, query: str) -> Answer | None:
            answer = super().__call__(asked, query)
            if answer is None or asked != path:
                return answer

            def content() -> bytes:
                made = answer.content()
                if pending:
                    pending.pop()()
                return made

            return replace(answer, content=content)

    with served(*roots, site=Changing) as client:
        yield client


def test_a_browser_shows_the_list_and_follows_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run_in(root / "a")
    run_in(root / "b", finished=False)
    with changed_after("/runs.json", lambda: run_in(root / "c", resolution=2.22), root) as client:
        listed = browsed(client, "/", tmp_path)
    assert 'id="live">' in listed, "the script ran, under its policy, and the server answered it"
    assert "2.22<small>" in listed and listed.count("just now</time>") == 3
    assert "<title>root · Halfmap</title>" in listed
    assert re.search(r'data-only="finished"[^>]*>finished <b>2</b>', listed)
    assert re.search(r'data-only="stopped"[^>]*>stopped <b>1</b>', listed)
    assert re.search(r'data-only="failed"[^>]*hidden', listed)


def test_the_page_of_a_run_at_work_is_loaded_again_when_it_has_changed(tmp_path: Path) -> None:
    run = run_in(tmp_path / "root" / "run", finished=False)
    with changed_after("/run/run/report.html", lambda: run_in(run, False, 4.44), run.parent) as client:
        page = browsed(client, "/run/run/report.html", tmp_path)
    assert 'data-running="watched"' in page and ">all runs</a>" in page
    assert re.search(r'class="value">4.44<small>', page) and not re.search(r"<button[^>]*>This page was", page)


def test_the_page_of_a_finished_run_waits_for_the_reader(tmp_path: Path) -> None:
    run = run_in(tmp_path / "root" / "run")
    with changed_after("/run/run/report.html", lambda: run_in(run, True, 4.44), run.parent) as client:
        page = browsed(client, "/run/run/report.html", tmp_path)
    assert re.search(r'class="value">7.50<small>', page) and re.search(r"<button[^>]*>This page was", page)
