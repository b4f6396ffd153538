"""`halfmap` as a user starts it, measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from evidence import Cost, run_measured


def refine(options: Sequence[object], folder: Path) -> Cost:
    """Run `halfmap refine` with these words into a new folder; what it prints goes beside it, into folder.log."""
    return _run("refine", options, folder)


def classify(options: Sequence[object], folder: Path) -> Cost:
    """Run `halfmap classify` with these words into a new folder."""
    return _run("classify", options, folder)


def ctf_refine(options: Sequence[object], folder: Path) -> Cost:
    """Run `halfmap ctf-refine` with these words into a new folder."""
    return _run("ctf-refine", options, folder)


def simulate(options: Sequence[object], folder: Path) -> Cost:
    """Run `halfmap simulate` with these words into a folder."""
    return _run("simulate", options, folder)


def classes2d(options: Sequence[object], folder: Path) -> Cost:
    """Run `halfmap classes2d` with these words into a new folder."""
    return _run("classes2d", options, folder)


def regularise(halves: Sequence[Path], options: Sequence[object], folder: Path) -> Cost:
    """Run `halfmap regularise` on two half maps into a new folder."""
    return _run("regularise", ["--half1", halves[0], "--half2", halves[1], *options], folder)


def iterations(folder: Path) -> int:
    """Iterations of a finished run."""
    lines = (folder / "iterations.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(1 for line in lines if line.strip())


def _run(command: str, options: Sequence[object], folder: Path) -> Cost:
    folder.parent.mkdir(parents=True, exist_ok=True)
    words = [command, *map(str, options), "--out", str(folder)]
    log = folder.with_name(f"{folder.name}.log")
    print(f"halfmap {' '.join(words)}\n  output in {log}", flush=True)
    return run_measured([sys.executable, "-m", "halfmap", *words], log)
