"""Does a regulariser find better poses and finer maps, and how many particles does it save?

python benchmarks/claims/nonuniform.py --out FOLDER
    --given particles.star --given-map initial.mrc --given-truth particles_truth.star --given-model model.pdb
    --given-diameter 170 --given-rigid-out T
    [--regulariser 'NAME=OPTIONS' ..] [--counts 500 1000 2000] [--seeds 1 2] [--sets transporter ..]

Refines the given particles and three simulated membrane proteins (molecules.py), each at several numbers of particles
and for several seeds, with every regulariser from the same start, and judges poses and maps by the truth. Results are
written as each run ends; an interrupted benchmark goes on where it stopped when it is started again. Prints tables and
writes benchmarks/results/nonuniform.json (or --result) and two plots beside it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets import DataSet, simulated
from evidence import RESULTS, CommandFailed, circumstances, commit, without_machine, write_record
from halfmap_run import iterations, refine
from judge import COARSEST, Truth, judge, rigid_part, shown
from molecules import MOLECULES
from subset import subset

from halfmap.errors import InputError
from halfmap.particles.star import read_star
from halfmap.report.pictures.reslog_plot import Plotted, Point, write_reslog_svg
from halfmap.validation.reslog import Curve, mean_inverse_square, needed

REGULARISERS = ("uniform=--regulariser uniform", "nonuniform=--regulariser nonuniform")
ROWS = [
    ("map against truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("map against truth, FSC 0.143, A", "truth_mean_0143", ".2f"),
    ("map against truth, average FSC beyond 12 A", "truth_mean_average", ".3f"),
    ("half map 1 against truth, FSC 0.5, A", "truth_half1_05", ".2f"),
    ("pose error, median, deg", "pose_median", ".2f"),
    ("pose error, 80th percentile, deg", "pose_p80", ".2f"),
    ("above 10 deg, share", "pose_above10", ".3f"),
    ("half maps, FSC 0.143 unmasked, A", "half_0143_unmasked", ".2f"),
    ("half maps, FSC 0.143 in the rigid part, A", "half_0143_rigid", ".2f"),
    ("CPU seconds", "cpu_seconds", ",.0f"),
    ("iterations", "iterations", ".1f"),
]
# What the plots show, and what the particles saved are told by.
MEASURES = {"truth_mean_05": "map against truth, FSC 0.5", "half_0143_rigid": "half maps, FSC 0.143 in the rigid part"}


@dataclass(frozen=True)
class Task:
    """One refinement: its data set, number of particles, seed, and regulariser with its options."""

    data: DataSet
    count: int
    seed: int
    regulariser: str
    words: str

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.data.name} {self.count} seed{self.seed} {self.regulariser}"

    def folder(self, out: Path) -> Path:
        """Where its run is left."""
        return out / "runs" / self.data.name / f"seed{self.seed}" / f"{self.count}_{self.regulariser.replace(' ', '_')}"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Regularisers compared by the truth, over numbers of particles.")
    parser.add_argument("--out", type=Path, required=True, help="folder for simulated images and runs; kept and reused")
    parser.add_argument("--result", type=Path, default=RESULTS / "nonuniform.json", metavar="FILE.json")
    parser.add_argument("--regulariser", action="append", metavar="NAME=OPTIONS",
                        help="a name and options of halfmap refine, the first is what others are compared with; may be "
                             f"given several times (default: {', '.join(REGULARISERS)})")
    parser.add_argument("--sets", nargs="*", default=list(MOLECULES), choices=list(MOLECULES), help="simulated sets")
    parser.add_argument("--counts", nargs="+", type=int, default=[500, 1000, 2000], metavar="N")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--simulate-options", default="", metavar="'--snr ..'", help="more of halfmap simulate")
    given = parser.add_argument_group("a data set that is at hand (needs all but the last)")
    given.add_argument("--given", type=Path, metavar="particles.star")
    given.add_argument("--given-map", type=Path, metavar="initial.mrc")
    given.add_argument("--given-truth", type=Path, metavar="truth.star")
    given.add_argument("--given-model", type=Path, metavar="model.pdb")
    given.add_argument("--given-diameter", type=float, metavar="A")
    given.add_argument("--given-symmetry", default="C1", metavar="GROUP")
    given.add_argument("--given-rigid-out", default="", metavar="CHAINS", help="flexible chains, not compared")
    found = parser.parse_args()
    needed_too = (found.given_map, found.given_truth, found.given_model, found.given_diameter)
    if found.given is not None and None in needed_too:
        parser.error("--given needs --given-map, --given-truth, --given-model and --given-diameter")
    return found


def tasks(given: argparse.Namespace) -> list[Task]:
    """All refinements, largest numbers of particles first; simulates what is not there yet."""
    regularisers = [text.partition("=")[::2] for text in given.regulariser or REGULARISERS]
    found = []
    for seed in given.seeds:
        sets = [simulated(name, seed, max(given.counts), shlex.split(given.simulate_options), given.out / "data")
                for name in given.sets]
        if given.given is not None:
            sets.insert(0, DataSet(
                given.given.resolve().parent.name, given.given, given.given_map, given.given_diameter,
                given.given_symmetry, given.given_truth, given.given_model, given.given_rigid_out, "given"))
        for data in sets:
            found += [Task(data, count, seed, name, words) for count in sorted(given.counts, reverse=True)
                      for name, words in regularisers]
    return found


def one_run(task: Task, out: Path, threads: int) -> dict[str, Any]:
    """Refine and judge. What an interrupted run left in the folder is removed first."""
    data, folder = task.data, task.folder(out)
    particles, _ = subset(data.particles, str(task.count), task.seed, folder.parent)
    if folder.exists():
        shutil.rmtree(folder)
    cost = refine([
        particles, "--map", data.map, "--diameter", f"{data.diameter:g}", "--symmetry", data.symmetry,
        "--threads", threads, "--seed", task.seed, *shlex.split(task.words)], folder)
    truth = Truth(read_star(data.truth), data.symmetry, rigid_part(data.model, data.rigid_out))
    verdict = judge(read_star(folder / "particles.star"), folder / "half1_unfil.mrc", folder / "half2_unfil.mrc", truth)
    return {
        "set": data.name, "count": task.count, "seed": task.seed, "regulariser": task.regulariser,
        "options": task.words, "origin": data.origin, "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "command": cost.command,
        "cpu_seconds": cost.cpu_seconds, "wall_seconds": cost.wall_seconds, "peak_rss_mb": cost.peak_rss_mb,
        "iterations": iterations(folder), **verdict}


def earlier_results(path: Path, wanted: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Results of an earlier start by key. Raises InputError where one has the name of a run that is another now."""
    if not path.exists():
        return {}
    results: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")).get("results", {})
    for task in wanted:
        found = results.get(task.key)
        if found and (found["options"], found["origin"]) != tuple(
                without_machine(text) for text in (task.words, task.data.origin)):
            raise InputError(f"{path}: {task.key} was run with other options or images; name another --result")
    return results


def summary(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """By data set and number of particles: means over the seeds, and what every regulariser gains over the first.

    gain_A is positive where the map is finer; `particles` is how many reach what the first reaches with all
    (left out where that is 12 A or worse), and `bound` says where that could only be bounded.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in dict.fromkeys(r["set"] for r in results):
        of_set = [r for r in results if r["set"] == name]
        curves = {key: curves_of(of_set, key) for key in MEASURES}
        for count in sorted({r["count"] for r in of_set}):
            row: dict[str, Any] = {}
            for method in names:
                runs = [r for r in of_set if r["count"] == count and r["regulariser"] == method]
                row[method] = {"seeds": len(runs)} | {
                    key: sum(r[key] for r in runs) / len(runs) for _, key, _ in ROWS}
            for method in names[1:]:
                row[method] |= _gain(row[names[0]], row[method])
                for key, by_method in curves.items():
                    reached = by_method[names[0]][count]
                    if max(reached) < COARSEST:  # worse is not told apart
                        enough = needed(mean_inverse_square(reached), by_method[method])
                        row[method] |= {f"particles_{key}": enough.particles, f"particles_{key}_bound": enough.bound}
            found.setdefault(name, {})[str(count)] = row
    return found


def _gain(first: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {
        **{f"gain_A_{key}": first[key] - other[key] for key in MEASURES},
        **{f"ratio_{key}": first[key] / other[key] for key in MEASURES},
        "ratio_pose_median": first["pose_median"] / other["pose_median"],
        "gain_average_fsc": other["truth_mean_average"] - first["truth_mean_average"],
        "ratio_cpu_seconds": other["cpu_seconds"] / first["cpu_seconds"]}


def curves_of(results: Sequence[Mapping[str, Any]], key: str) -> Mapping[str, Curve]:
    """Regulariser -> number of particles -> resolutions of the seeds (A)."""
    found: dict[str, dict[int, list[float]]] = {}
    for r in results:
        found.setdefault(r["regulariser"], {}).setdefault(r["count"], []).append(r[key])
    return found


def report(found: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Sequence[str]) -> None:
    """Print the summary: a table of means for each data set, and one of gains."""
    for name, rows in found.items():
        columns = [(count, method) for count in rows for method in names]
        shown([(label, [rows[count][method][key] for count, method in columns], style) for label, key, style in ROWS],
              [f"{count} {method}" for count, method in columns], f"{name}, mean of the seeds")
    lines = [(f"{name}, {count}", method, rows[count][method])
             for name, rows in found.items() for count in rows for method in names[1:]]
    if lines:
        _show_gains(lines, names[0])


def _show_gains(lines: Sequence[tuple[str, str, Mapping[str, Any]]], first: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Gain over {first}, and the particles that reach the same", title_justify="left")
    for label in ("", "", "truth 0.5, A", "ratio", "particles", "halves 0.143, A", "ratio", "particles",
                  "average FSC", "pose ratio", "CPU ratio"):
        table.add_column(label, justify="right" if label else "left")
    for label, method, row in lines:
        cells = []
        for key in MEASURES:
            enough = row.get(f"particles_{key}")
            cells += [f"{row[f'gain_A_{key}']:+.2f}", f"{row[f'ratio_{key}']:.3f}",
                      "-" if enough is None else f"{row[f'particles_{key}_bound']}{enough:,.0f}"]
        table.add_row(label, method, *cells, f"{row['gain_average_fsc']:+.3f}", f"{row['ratio_pose_median']:.2f}",
                      f"{row['ratio_cpu_seconds']:.2f}")
    Console(highlight=False, width=max(150, Console().width)).print(table)


def plot(results: Sequence[Mapping[str, Any]], result: Path) -> None:
    """Write one plot for each measure beside the result."""
    names = dict.fromkeys(r["set"] for r in results)
    for key, label in MEASURES.items():
        panels = {name: [Plotted(method, _points(curve)) for method, curve in
                         curves_of([r for r in results if r["set"] == name], key).items()] for name in names}
        write_reslog_svg(result.with_name(f"{result.stem}_{key}.svg"), panels, label)


def _points(curve: Curve) -> list[Point]:
    """Means of the seeds, with bars from the worst to the best of them."""
    return [Point(n, mean_inverse_square(d), max(d) ** -2, min(d) ** -2) for n, d in sorted(curve.items())]


def main() -> int:
    """Run what has not been run, then summarise."""
    given = options()
    try:
        wanted = tasks(given)
        results = earlier_results(given.result, wanted)
        record = circumstances()
        for task in wanted:
            if task.key not in results:
                results[task.key] = one_run(task, given.out, given.threads)
                write_record(given.result, record | {"results": results})
    except (InputError, CommandFailed) as error:
        print(f"nonuniform: error: {error}", file=sys.stderr)
        return 2
    asked = [results[task.key] for task in wanted]
    names = list(dict.fromkeys(task.regulariser for task in wanted))
    found = summary(asked, names)
    write_record(given.result, record | {"results": results, "summary": found})
    plot(asked, given.result)
    report(found, names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
