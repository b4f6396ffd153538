"""What an iteration costs, an image, at several boxes: this Halfmap beside another that is installed elsewhere.

python benchmarks/speed/iteration.py --out FOLDER [--peer /other/venv/bin/python] [--boxes 128 192 256] [--count 300]
    [--rounds 2] [--search local global] [--result FILE.json]

Images of a simulated transporter in boxes of 192 A are refined from their true poses and map for two iterations in one
thread: a local one to two thirds of the Nyquist frequency and the final one; with --search global, one from the map at
10 A. Both programs take turns,
and each stage's least wall seconds of the rounds count, after a round that compiles. Milliseconds an image of reading,
search and insertion, and seconds of the solve. What is done once an iteration, as sums that are made empty, is in them,
so few images cost more each. Ratios are those of the two programs in this run. The result is benchmarks/results/
iteration.json, or --result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims"))
from datasets import DataSet, simulated
from evidence import RESULTS, CommandFailed, circumstances, run_measured, write_record
from judge import shown

from halfmap.errors import InputError

STAGES = ("read", "search", "insert", "solve")
EXTENT = 192.0  # A, of every box
NAMES = {"local": ("local", "final"), "global": ("global",)}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Cost of an iteration at several boxes.")
    parser.add_argument("--out", type=Path, required=True, help="folder for images and runs; images are reused")
    parser.add_argument("--peer", type=Path, help="the Python of an environment with another Halfmap")
    parser.add_argument("--boxes", type=int, nargs="+", default=[128, 192, 256])
    parser.add_argument("--count", type=int, default=300, help="images")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--search", nargs="+", choices=sorted(NAMES), default=["local"])
    parser.add_argument("--result", type=Path, default=RESULTS / "iteration.json", metavar="FILE.json")
    return parser.parse_args()


def seconds(python: Path, data: DataSet, search: str, start: float, folder: Path) -> dict[str, dict[str, float]]:
    """Wall seconds by stage of the iterations of one run, by name. start: resolution in A of the map it begins with."""
    shutil.rmtree(folder, ignore_errors=True)
    words = [data.truth, "--map", data.map.with_name("truth.mrc"), "--diameter", f"{data.diameter:g}", "--threads", 1,
             "--max-iterations", len(NAMES[search]), "--seed", 1, "--search", search,
             "--ini-high", f"{start:g}"]
    run_measured([python, "-m", "halfmap", "refine", *map(str, words), "--out", folder], folder.with_suffix(".log"))
    rows = [json.loads(line) for line in (folder / "iterations.jsonl").read_text(encoding="utf-8").splitlines()]
    return {name: {stage: row["seconds"][stage] for stage in STAGES}
            for name, row in zip(NAMES[search], rows, strict=False)}


def least(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The least seconds of each stage; the first round counts for nothing."""
    return {name: {stage: min(each[name][stage] for each in rounds[1:]) for stage in STAGES} for name in rounds[0]}


def rows_of(found: dict[str, dict[str, dict[str, float]]], count: int) -> list[tuple[str, list[float], str]]:
    """Rows of one box: every stage of every iteration, a column for each program."""
    rows = []
    for name in found["this"]:
        for stage in STAGES:
            unit, scale = ("s", 1.0) if stage == "solve" else ("ms an image", 1e3 / count)
            rows.append((f"{name} {stage}, {unit}", [found[who][name][stage] * scale for who in found], ".2f"))
    return rows


def main() -> None:
    """Run the benchmark."""
    given = options()
    programs = ({"other": given.peer} if given.peer else {}) | {"this": Path(sys.executable)}
    record: dict[str, object] = {**circumstances(), "count": given.count, "results": {}}
    results: dict[str, object] = {}
    for box in given.boxes:
        pixel = EXTENT / box
        more = ["--box", str(box), "--apix", f"{pixel:g}", "--snr", "0.1", "--bfactor", "20"]
        data = simulated("transporter", 1, given.count, more, given.out / f"images_{box}")
        for search in given.search:
            rounds: dict[str, list[dict[str, dict[str, float]]]] = {who: [] for who in programs}
            for _ in range(given.rounds + 1):
                for who, python in programs.items():
                    rounds[who].append(seconds(python, data, search, 3 * pixel if search == "local" else 10.0,
                                               given.out / f"{who}_{box}_{search}"))
            found = {who: least(each) for who, each in rounds.items()}
            results[f"{box} {search}"] = found
            write_record(given.result, record | {"results": results})
            shown(rows_of(found, given.count), list(found), f"box {box}, {given.count} images", len(found) == 2)


if __name__ == "__main__":
    try:
        main()
    except (CommandFailed, InputError) as error:
        raise SystemExit(f"iteration: {error}") from error
