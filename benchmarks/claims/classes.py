"""Mixtures of two molecules, one of which lacks a domain: which images land in which class, and what the maps show?

python benchmarks/claims/classes.py model.pdb --without N --out FOLDER --result benchmarks/results/classes.json
    [--residues 65 200] [--leave-out T] [--count 1000] [--share 0.2] [--classes 2] [--snr 0.04] [--box 64] [--apix 3.2]
    [--seed 1] [--junk 0.2] [--poses true refined none] [--searches fixed local] [--options='--regulariser uniform']
    [--relion]

`--without CHAIN` (of it `--residues FIRST LAST` only) is what the second molecule lacks; ``--share`` of the images show
it. Poses are the true ones, those of a `halfmap refine` of the whole mixture, or none (a global search). ``--relion``
lets relion_refine --K --skip_align sort the images at the true poses. The confusion matrix has a row for each molecule
and a column for each class; `right` counts an image whose class holds its molecule most; truth FSC is that of each
class's unfiltered mean map with the map of the molecule that it holds most. ``--junk`` adds so many images (of
``--count``) that show neither: noise, and broken particles (the first molecule on one side of a random plane), half of
each. For them the matrix has rows too, and told is how many of each kind are taken for particles.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import CommandFailed, circumstances, run_measured, write_record
from halfmap_run import classify, refine, simulate
from judge import shown
from relion_run import REFERENCE, TABLE, prepare, version

from halfmap.errors import InputError
from halfmap.maps.masks import solvent_mask
from halfmap.maps.mrc import read_map
from halfmap.maps.rigid import moved
from halfmap.particles.model import Atoms, read_model, write_pdb
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.validation.fsc import fsc, resolution

ROWS = [
    ("right", "right", ".3f"), ("molecule 1 by class", "first", ""), ("molecule 2 by class", "second", ""),
    ("noise by class", "noise", ""), ("broken by class", "broken", ""), ("taken for particles", "particles", ""),
    ("truth FSC 0.5 by class, A", "truth_05", ""), ("iterations", "iterations", "d"),
    ("CPU seconds", "cpu_seconds", ".0f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Mixtures of two molecules.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--without", required=True, metavar="CHAIN")
    parser.add_argument("--residues", nargs=2, type=int, metavar=("FIRST", "LAST"))
    parser.add_argument("--leave-out", default="", metavar="CHAIN", help="in neither molecule")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--snr", type=float, default=0.04)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--apix", type=float, default=3.2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--junk", type=float, default=0.0)
    parser.add_argument("--diameter", type=float, default=200.0)
    parser.add_argument("--poses", nargs="+", default=["true"], choices=("true", "refined", "none"))
    parser.add_argument("--searches", nargs="+", default=["fixed"], choices=("fixed", "local"))
    parser.add_argument("--options", default="", help="more options of halfmap classify")
    parser.add_argument("--relion", action="store_true")
    return parser.parse_args()


def part(atoms: Atoms, kept: np.ndarray) -> Atoms:
    """The atoms that are kept."""
    places = np.flatnonzero(kept)
    names = {name: tuple(getattr(atoms, name)[i] for i in places)
             for name in ("element", "chain", "residue", "number", "name")}
    return replace(atoms, xyz=atoms.xyz[places], bfactor=atoms.bfactor[places], occupancy=atoms.occupancy[places],
                   **names)


def molecules(given: argparse.Namespace) -> list[Atoms]:
    """Both molecules, in one frame."""
    atoms = read_model(given.model)
    chain, number = np.array(atoms.chain), np.array(atoms.number)
    inside = chain != given.leave_out
    first, last = given.residues or (-10_000, 10_000)
    domain = (chain == given.without) & (number >= first) & (number <= last)
    return [part(atoms, inside), part(atoms, inside & ~domain)]


def mixture(given: argparse.Namespace) -> Path:
    """A folder with the images of both, made once: truth.star has their poses in one frame and rlnClassNumber."""
    folder = given.out / "mixture"
    if (folder / "truth.star").exists():
        return folder
    both, tables = molecules(given), []
    counts = [given.count - round(given.share * given.count), round(given.share * given.count)]
    for number, (atoms, count) in enumerate(zip(both, counts, strict=True), start=1):
        path = folder / f"molecule{number}.pdb"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pdb(path, atoms)
        if not (folder / f"images{number}" / "particles_truth.star").exists():
            simulate([path, "--n", count, "--box", given.box, "--apix", given.apix, "--snr", given.snr,
                      "--seed", 1000 + 10 * given.seed + number], folder / f"images{number}")
        table = read_star(folder / f"images{number}" / "particles_truth.star")
        moved = atoms.xyz.mean(dim=0) - both[0].xyz.mean(dim=0)  # each was simulated about the mean of its atoms
        assert table.rotations is not None and table.origins is not None
        tables.append(replace(table, origins=table.origins + (table.rotations @ moved)[:, :2]))
    kinds = [np.full(len(table), kind) for kind, table in enumerate(tables, start=1)]
    if given.junk:
        simulate([folder / "molecule1.pdb", "--n", round(1.2 * given.junk * given.count), "--box", given.box, "--apix",
                  given.apix, "--snr", given.snr, "--junk", 0.999, "--seed", 1003 + 10 * given.seed],
                 folder / "images3")
        table = read_star(folder / "images3" / "particles_truth.star")
        what = table.numbers("rlnClassNumber").astype(int)  # 2 is noise, 3 a broken particle
        each = round(0.5 * given.junk * given.count)
        rows = np.sort(np.concatenate([np.flatnonzero(what == kind)[:each] for kind in (2, 3)]))
        tables.append(table.select(rows))
        kinds.append(what[rows] + 1)
    write_star(folder / "truth.star", joined(tables, kinds, given.seed))
    return folder


def joined(tables: list[ParticleTable], kinds: list[np.ndarray], seed: int) -> ParticleTable:
    """All tables as one in random order, half sets left out, with kinds as rlnClassNumber."""
    one, lengths = tables[0], [len(table) for table in tables]
    columns: dict[str, Any] = {}
    for name in one.columns:
        if name not in ("rlnRandomSubset", "rlnClassNumber"):
            values = [list(table.columns[name]) for table in tables]
            if name == "rlnMicrographName":
                values = [[f"{n}_{value}" for value in own] for n, own in enumerate(values, start=1)]
            every = [value for own in values for value in own]
            columns[name] = every if isinstance(one.columns[name], list) else np.array(every)
    columns["rlnClassNumber"] = np.concatenate(kinds)

    def apart(numbers: list[np.ndarray]) -> np.ndarray:
        """Micrographs or groups of all, no number twice."""
        before = np.cumsum([0, *[int(own.max()) + 1 for own in numbers]])
        return np.concatenate([own + first for own, first in zip(numbers, before[:-1], strict=True)])

    defocus = type(one.defocus)(**{name: torch.cat([getattr(table.defocus, name) for table in tables])
                                   for name in vars(one.defocus)})
    whole = replace(
        one, columns=columns, defocus=defocus, rotations=torch.cat([table.rotations for table in tables]),
        origins=torch.cat([table.origins for table in tables]), half=None,
        optics_index=np.zeros(sum(lengths), np.int64),
        stacks=tuple(stack for table in tables for stack in table.stacks),
        stack_index=np.repeat(np.arange(len(tables)), lengths),
        image_index=np.concatenate([table.image_index for table in tables]),
        micrograph=apart([table.micrograph for table in tables]), group=apart([table.group for table in tables]),
        group_names=(), rows=np.arange(sum(lengths)),
    )  # fmt: skip
    return whole.select(np.random.default_rng(seed).permutation(len(whole)))


def images_of(table: ParticleTable) -> list[tuple[str, int]]:
    """Folder of the stack and number of every image: both molecules' stacks have one name."""
    folders = [path.parent.name for path in table.stacks]
    return [(folders[s], int(i)) for s, i in zip(table.stack_index, table.image_index, strict=True)]


def confusion(found: ParticleTable, truth: ParticleTable, classes: int) -> np.ndarray:
    """Images of each molecule, of noise and of broken particles [4] in each class [k]."""
    known = dict(zip(images_of(truth), truth.numbers("rlnClassNumber").astype(int).tolist(), strict=True))
    kinds = np.array([known[image] for image in images_of(found)])
    classed = found.numbers("rlnClassNumber").astype(int)
    return np.array([[int(((kinds == m) & (classed == k + 1)).sum()) for k in range(classes)] for m in (1, 2, 3, 4)])


def judged(counts: np.ndarray, maps: list[Any], folder: Path) -> dict[str, Any]:
    """What the confusion matrix and the maps [k] of the classes (None: no map) say."""
    both, reached = counts[:2], list[float | None]()
    truths = [read_map(folder / f"images{m}" / "truth.mrc") for m in (1, 2)]
    for k, v in enumerate(maps):
        if v is None:
            reached.append(None)
            continue
        true = truths[int(both[:, k].argmax())]
        mask = solvent_mask(true.data, true.pixel_size)
        reached.append(round(resolution(fsc(v * mask, true.data * mask), len(v), true.pixel_size, 0.5), 2))
    junk = {"noise": counts[2].tolist(), "broken": counts[3].tolist()} if counts[2:].any() else {}
    return {"right": float(both.max(axis=0).sum() / both.sum()), "first": both[0].tolist(),
            "second": both[1].tolist(), "truth_05": reached, **junk}


def halfmap_classes(
    given: argparse.Namespace, folder: Path, particles: Path, words: list[object], out: Path
) -> dict[str, Any]:
    """One classification by halfmap, judged. Maps in a refinement's own frame are not compared with the truth."""
    cost = classify([particles, "--classes", given.classes, "--threads", 1, *words, *shlex.split(given.options)], out)
    found, truth = read_star(out / "particles.star"), read_star(folder / "truth.star")
    counts = confusion(found, truth, given.classes)
    present = replace(found, columns=found.columns | {
        "rlnClassNumber": 1.0 + (found.numbers("halfmapParticleProbability") > 0.5)})
    taken = confusion(present, truth, 2)[:, 1].tolist()
    names = [[out / f"class{k + 1:03d}_half{h}.mrc" for h in (1, 2)] for k in range(given.classes)]
    maps = [None if "--map" not in words or not pair[0].exists() else
            in_own_frame(sum(read_map(path).data for path in pair) / 2, counts[:, k], given, folder)
            for k, pair in enumerate(names)]
    lines = (out / "iterations.jsonl").read_text().splitlines()
    return {"command": cost.command, "cpu_seconds": cost.cpu_seconds, "iterations": len(lines),
            "shares": [one["share"] for one in json.loads(lines[-1])["classes"]], "particles": taken,
            **judged(counts, maps, folder)}


def in_own_frame(v: torch.Tensor, counts: np.ndarray, given: argparse.Namespace, folder: Path) -> torch.Tensor:
    """A map in the frame of the truth.mrc of the molecule that it holds most (counts [2]): the mean of its atoms is in
    the centre."""
    if counts[0] >= counts[1]:
        return v
    first, second = (read_model(folder / f"molecule{m}.pdb").xyz.mean(dim=0) for m in (1, 2))
    return moved(v, torch.eye(3, dtype=torch.float64), first - second, given.apix)


def relion_classes(given: argparse.Namespace, folder: Path, out: Path) -> dict[str, Any]:
    """The same by relion_refine, at the true poses."""
    truth = read_star(folder / "truth.star")
    prepare(truth, folder / "images1" / "initial.mrc", given.diameter, out)
    words = ["relion_refine", "--i", TABLE, "--ref", REFERENCE, "--o", "./run", "--K", str(given.classes),
             "--skip_align", "--firstiter_cc", "--ini_high", "30", "--iter", "25", "--tau2_fudge", "4", "--ctf",
             "--particle_diameter", f"{given.diameter:g}", "--flatten_solvent", "--zero_mask", "--oversampling", "1",
             "--norm", "--scale", "--pad", "2", "--j", "1", "--random_seed", "1", "--dont_combine_weights_via_disc"]
    cost = run_measured(words, out / "run.log", cwd=out)
    found = read_star(out / "run_it025_data.star", data_dir=out)
    own = truth.select(found.image_index)  # RELION keeps the names in its stack
    own = replace(with_poses(own, own.rotations, own.origins), columns=own.columns | {
        "rlnClassNumber": found.columns["rlnClassNumber"]})
    counts = confusion(own, truth, given.classes)
    maps = [in_own_frame(read_map(out / f"run_it025_class{k + 1:03d}.mrc").data, counts[:, k], given, folder)
            for k in range(given.classes)]
    return {"command": cost.command, "cpu_seconds": cost.cpu_seconds, "iterations": 25, "version": version(),
            **judged(counts, maps, folder)}


def main() -> int:
    """Sort one mixture in every way that was asked for."""
    given = options()
    results: dict[str, dict[str, Any]] = {}
    try:
        folder = mixture(given)
        map_words: list[object] = ["--map", folder / "images1" / "initial.mrc", "--diameter", f"{given.diameter:g}"]
        for poses in given.poses:
            if poses == "refined" and not (given.out / "refined" / "map.mrc").exists():
                refine([folder / "truth.star", *map_words, "--threads", 1], given.out / "refined")
            for search in ["global"] if poses == "none" else given.searches:
                particles = given.out / "refined" if poses == "refined" else folder / "truth.star"
                words = ["--search", search, *([] if poses == "refined" else map_words)]
                out = given.out / f"{poses}_{search}_{given.classes}"
                shutil.rmtree(out, ignore_errors=True)
                results[f"{poses} poses, {search}"] = halfmap_classes(given, folder, particles, words, out)
                write_record(given.result, circumstances() | {"results": results})
        if given.relion:
            results["RELION, true poses"] = relion_classes(given, folder, given.out / "relion")
            write_record(given.result, circumstances() | {"results": results})
    except (InputError, CommandFailed) as error:
        print(f"classes: error: {error}", file=sys.stderr)
        return 2
    told = [(label, [str(r.get(key)) if not style else r.get(key) for r in results.values()], style)
            for label, key, style in ROWS]
    shown([(label, values, style) for label, values, style in told if style], list(results), "two molecules")
    for label, values, style in told:
        if not style:
            print(f"{label}: {'; '.join(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
