"""Blocks of pages by name: tables and figures from benchmarks/results, and what other generators make."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from generate import python_api
from generate.figures import curves, dots

SETS = {"gpcr-micelle": "receptor in a micelle, C1", "transporter": "transporter with a Fab, C1",
        "dimer": "dimer in a nanodisc, C2", "channel": "channel, C4"}
METHODS = {"uniform": "uniform", "nonuniform": "nonuniform", "sparse_smooth fixed": "sparse_smooth",
           "sparse_smooth cross-validated": "cross-validated", "sparse_smooth published-code": "published-code",
           "joined": "joined"}


_UNIT = re.compile(r"(?<=[\d→%]) (A\b|deg\b|→|%|[\d.]+$)")


def _read(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; numbers stay together with their units and arrows."""
    kept = [[_UNIT.sub("\u00a0\\1", cell) for cell in row] for row in rows]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in kept]) + "\n"


def _repeat(results: Path, name: str, record: Mapping[str, Any]) -> str:
    """How a measurement is repeated: the command as it was recorded, the file, the commit and the day."""
    command = record["benchmark"]
    script = command.split()[0]
    (found,) = results.parent.glob(f"*/{script}")
    commit = str(record.get("commit", ""))[:7]
    where = f"benchmarks/results/{name}.json" + (f", commit {commit}" if len(commit) == 7 and " " not in commit else "")
    return (f"\n```sh\npython benchmarks/{found.parent.name}/{command}\n```\n\n"
            f'<span class="facts">{where}, {str(record.get("time", ""))[:10]}</span>\n')


def _limit(value: float, worst: float = 12.0) -> str:
    return f"worse than {worst:g}" if value >= worst else f"{value:.2f}"


def _of_both_seeds(record: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Means of two seeds with 2,000 particles, by set and regulariser."""
    keys = ("pose_median", "truth_mean_05", "truth_mean_average")
    return {label: {name: {k: sum(record["results"][f"{one} 2000 seed{seed} {method}"][k] for seed in (1, 2)) / 2 for k in keys}
                    for method, name in METHODS.items()} for one, label in SETS.items()}


def _by_regulariser(results: Path) -> str:
    """Four membrane proteins, six regularisers, mean of two seeds, by the truth."""
    record = _read(results, "sparse_smooth")
    found = _of_both_seeds(record)
    head = ["", *METHODS.values()]
    rows = [[label, *(f"{v['pose_median']:.2f} deg<br>{v['truth_mean_05']:.2f} A<br>{v['truth_mean_average']:.3f}"
                      for v in row.values())] for label, row in found.items()]
    pictures = [dots({label: {name: v[key] for name, v in row.items()} for label, row in found.items()}, unit, caption)
                for key, unit, caption in (
                    ("pose_median", "degrees", "Pose error (median; less is better), 2,000 particles, mean of two seeds."),
                    ("truth_mean_average", "FSC", "Mean FSC of the map with the truth beyond 12 A (more is better)."))]
    return "\n".join([*pictures, _table(head, rows),
                      "Each cell: pose error (median), resolution of the map against the truth (FSC 0.5), mean FSC with the "
                      "truth beyond 12 A.\n", _repeat(results, "sparse_smooth", record)])


def _regularisers_brief(results: Path) -> str:
    """The same as a small table of four regularisers, as the README has it."""
    shown = ("uniform", "nonuniform", "sparse_smooth", "joined")
    rows = [[label, *(f"{v['pose_median']:.2f} deg, {v['truth_mean_05']:.2f} A" for v in (row[name] for name in shown))]
            for label, row in _of_both_seeds(_read(results, "sparse_smooth")).items()]
    return _table(["", "uniform", "nonuniform", "sparse_smooth", "joined (`local`)"], rows)


def _fewer_particles(results: Path) -> str:
    """uniform and nonuniform with 500 to 2,000 particles."""
    record = _read(results, "nonuniform")
    rows = []
    for key, label in SETS.items():
        for count in ("2000", "1000", "500"):
            u, n = (record["summary"][key][count][name] for name in ("uniform", "nonuniform"))
            rows.append([label, f"{int(count):,}", *(f"{u[k]:.{d}f} → {n[k]:.{d}f}" for k, d in (
                ("pose_median", 2), ("truth_mean_05", 2), ("truth_mean_average", 3), ("half_0143_unmasked", 2)))])
    return _table(["set", "particles", "pose error, deg", "map to truth, FSC 0.5, A", "mean FSC beyond 12 A",
                   "half maps 0.143 unmasked, A"], rows) + _repeat(results, "nonuniform", record)


def _conditions(results: Path) -> str:
    """Preferred views, no belt, junk."""
    names = ("uniform", "as published", "nonuniform", "fixed", "joined")
    rows = []
    for file, label in (("preferred", "preferred views"), ("soluble", "no belt"), ("junk", "30 % junk")):
        found = _read(results, f"conditions_{file}")["results"]
        rows += [[label, SETS[key], *(f"{v['pose_median']:.2f}, {v['truth_mean_average']:.3f}" for v in
                                      (found[f"{key} 2000 seed1 {name}"] for name in names))]
                 for key in ("transporter", "channel")]
    return _table(["", "set", "uniform", "nonuniform, as published", "nonuniform", "sparse_smooth", "joined"], rows) \
        + "".join(_repeat(results, f"conditions_{f}", _read(results, f"conditions_{f}"))
                  for f in ("preferred", "soluble", "junk"))


def _apoferritin(results: Path) -> str:
    """Real apoferritin against its atomic model."""
    sparse = _read(results, "apoferritin_sparse_smooth")
    plain, non = (_read(results, name)["results"] for name in ("apoferritin", "apoferritin_nonuniform"))
    found = [("1,200", "uniform", plain["O 1200"]), ("1,200", "nonuniform", non["O 1200"])]
    found += [("1,200", "sparse_smooth" if name == "fixed" else name, sparse[name]["results"]["O 1200"])
              for name in ("fixed", "cross-validated", "published-code", "joined")]
    found += [("2,304", "uniform", plain["O 2304"]), ("2,304", "nonuniform", non["O 2304"]),
              ("2,304", "joined", sparse["joined, all"]["results"]["O 2304"])]
    rows = [[count, name, f"{v['half_0143_unmasked']:.2f}", f"{v['model_mean_05']:.2f}", f"{v['model_mean_average']:.3f}",
             f"{v['cpu_seconds']:.0f}"] for count, name, v in found]
    return _table(["particles", "regulariser", "half maps 0.143 unmasked, A", "map to model, FSC 0.5, A",
                   "mean FSC beyond 12 A", "CPU s"], rows) + _repeat(results, "apoferritin", _read(results, "apoferritin"))


def _nonuniform_options(results: Path) -> str:
    """Options of nonuniform and the methods it is compared with, on the receptor."""
    record = _read(results, "nonuniform_options")
    rows = [[f"`{v['options'].replace('--regulariser ', '')}`", f"{v['pose_median']:.2f}, {v['pose_p80']:.2f}",
             f"{v['truth_mean_05']:.2f}", f"{v['truth_mean_average']:.3f}", str(v["iterations"])]
            for v in record["results"].values()]
    default = _read(results, "nonuniform")["results"]["gpcr-micelle 2000 seed1 nonuniform"]
    uniform = _read(results, "nonuniform")["results"]["gpcr-micelle 2000 seed1 uniform"]
    first = [[name, f"{v['pose_median']:.2f}, {v['pose_p80']:.2f}", f"{v['truth_mean_05']:.2f}",
              f"{v['truth_mean_average']:.3f}", str(v["iterations"])]
             for name, v in (("`uniform`", uniform), ("`nonuniform`, defaults", default))]
    return _table(["receptor, 2,000 particles, seed 1", "pose error, median and 80th percentile, deg",
                   "map to truth, FSC 0.5, A", "mean FSC beyond 12 A", "iterations"], first + rows) \
        + _repeat(results, "nonuniform_options", record)


def _strengths(results: Path) -> str:
    """The ways to set the strength of sparse_smooth: mean FSC with the truth."""
    shown = ("uniform", "sparse_smooth", "cross-validated", "published-code", "joined")
    rows = [[label, *(f"{row[name]['truth_mean_average']:.3f}" for name in shown)]
            for label, row in _of_both_seeds(_read(results, "sparse_smooth")).items()]
    return _table(["mean FSC with the truth beyond 12 A", "`uniform`", "`fixed`", "`cross-validated`", "`published-code`",
                   "`local`"], rows) + "\n2,000 particles, mean of two seeds. [All figures](../evidence/regularisers.md).\n"


def _relion(results: Path) -> str:
    """RELION 3.1.3 and Halfmap, one after the other."""
    record = _read(results, "against_relion_gpcr-micelle")
    r, h = record["results"]["RELION"], record["results"]["Halfmap"]
    rows = [["CPU seconds (RELION's waiting leader left out)", f"{r['cpu_seconds']:.0f}", f"{h['cpu_seconds']:.0f}"],
            ["wall seconds", f"{r['wall_seconds']:.0f}", f"{h['wall_seconds']:.0f}"],
            ["pose error, median and 80th percentile, deg", *(f"{v['pose_median']:.2f}, {v['pose_p80']:.2f}" for v in (r, h))],
            ["off by more than 10 deg", *(f"{100 * v['pose_above10']:.1f} %" for v in (r, h))],
            ["mean of the half maps against truth, FSC 0.5 and 0.143, A",
             *(f"{_limit(v['truth_mean_05'])}, {_limit(v['truth_mean_0143'])}" for v in (r, h))],
            ["half maps, FSC 0.143 unmasked, A", *(f"{v['half_0143_unmasked']:.2f}" for v in (r, h))],
            ["peak memory, MB", *(f"{v['peak_rss_mb']:,.0f}" for v in (r, h))]]
    picture = curves({"RELION 3.1.3": r["truth_mean_fsc"], "Halfmap, uniform": h["truth_mean_fsc"]}, 192.0,
                     "FSC with the truth", "FSC of the mean of the half maps with the truth, within the rigid part, 500 particles.")
    return picture + "\n" + _table(["", "RELION 3.1.3", "Halfmap"], rows) \
        + _repeat(results, "against_relion_gpcr-micelle", record)


def _noise(results: Path) -> str:
    """FSC of half maps of noise, in standard deviations of chance."""
    sparse, non = _read(results, "noise_only_sparse_smooth"), _read(results, "noise_only_nonuniform")
    found = {"uniform": sparse["uniform"], "nonuniform": non["--nu-uneven-sampling corrected"],
             "cross-validated": sparse["cross-validated"], "joined": sparse["local"],
             "published-code": sparse["published-code"]}
    lines, rows = {}, []
    for name, one in found.items():
        v = one["results"]
        first = v["first_shell"]
        lines[name] = [0.0 if s < first else f / b for s, (f, b) in enumerate(zip(v["half_fsc"], v["null_band"], strict=True))]
        rows.append([name, *(f"{v[key]['largest']:.1f}, {v[key]['mean']:.1f}" for key in ("half_maps", "half_maps_masked"))])
    side = 96 * 3.0  # the scripts' default: 96 px of 3 A
    return curves(lines, side, "FSC / sd of chance",
                  "FSC of unmasked half maps of 1,000 images of noise, in standard deviations of chance, beyond the start. "
                  "The band is 4.", 4.0, first) \
        + "\n" + _table(["regulariser", "unmasked: largest of a shell, of their mean", "within the mask"], rows) \
        + _repeat(results, "noise_only_sparse_smooth", sparse["uniform"])


def _starts(results: Path) -> str:
    """Every start of `halfmap start` as a trial."""
    labels = {"gpcr_800": "receptor in detergent", "gpcr_200": "receptor in detergent", "gpcr_2000": "receptor in detergent",
              "gpcr_800_noise30": "receptor, 30 % noise", "gpcr_400_noise50": "receptor, half noise",
              "transporter_C1_800": "transporter in detergent", "transporter_C1_600_noise30": "transporter, 30 % noise",
              "channel_C4_800": "channel in detergent", "dimer_C2_800": "dimer in detergent",
              "half_tetramer_C2_800": "dimer, 53 kDa", "tetramer_D2_800": "tetramer, 105 kDa",
              "apoferritin_O_1300": "real apoferritin, to 9 A"}
    record = _read(results, "starts")
    rows = []
    for key, label in labels.items():
        v = record[key]
        right = [f"{start['right']:.2f}".lstrip("0") for start in v["starts"]]
        agree = [f"{s['same_pose_as_best']:.2f}".lstrip("0") for s in v["starts"][1:] if "same_pose_as_best" in s]
        rows.append([label, str(v["images"]), v["symmetry"], " ".join(right), " ".join(agree),
                     f"{v['best_right_when_finished']:.2f}"])
    return _table(["images of", "number", "symmetry", "right poses of each start", "same pose as the best",
                   "best, taken further"], rows) + _repeat(results, "starts", record["gpcr_800"]["circumstances"])


def _classes(results: Path) -> str:
    """Two molecules in one set of images."""
    record = _read(results, "classes")
    rows = [[name, " and ".join(", ".join(map(str, v[key])) for key in ("first", "second")) if "first" in v else "",
             f"{100 * v['right']:.1f} %" if "right" in v else "", f"{v['cpu_seconds']:.0f}"]
            for name, v in record["results"].items()]
    first = next(iter(record["results"].values()))
    return _table(["images, poses, search", "images of each molecule in each class", "right", "CPU s"], rows) \
        + _repeat(results, "classes", {"benchmark": first["benchmark"], "time": record["time"], "commit": record["commit"]})


def _junk(results: Path) -> str:
    """Particles among noise and broken particles, against the same ones alone."""
    rows = []
    for file in ("mixed", "mixed_seed2"):
        found = _read(results, file)["results"]
        for name, v in found.items():
            if name.endswith(" alone"):
                continue
            alone = found[f"{name} alone"]
            _, share, _, seed, regulariser = name.split()
            rows.append([f"{share}, {v['real']}", seed, regulariser, *(f"{w['pose_median']:.2f}, {w['pose_p80']:.1f}"
                         for w in (alone, v)), *(f"{w['truth_mean_average']:.3f}" for w in (alone, v))])
    return _table(["junk, intact particles", "seed", "regulariser", "pose error alone, median and 80th percentile, deg",
                   "with junk", "mean FSC beyond 12 A alone", "with junk"], rows) \
        + _repeat(results, "mixed", _read(results, "mixed"))


def _optics(results: Path) -> str:
    """Wrong optics, fitted and not."""
    parts = []
    for file, label in (("ctf_refine", "first seed"), ("ctf_refine_seed2", "second seed")):
        record = _read(results, file)
        found = {name: v for name, v in record["results"].items() if "truth_mean_05" in v}
        values = (("map to truth, FSC 0.5, A", "truth_mean_05", 2), ("mean FSC beyond 12 A", "truth_mean_average", 3),
                  ("pose error, median, deg", "pose_median", 3), ("defocus error, A", "defocus_sd", 0),
                  ("beam tilt error, mrad", "tilt", 3), ("trefoil error, rad at 3 A", "trefoil", 3),
                  ("magnification error, %", "magnification", 3))
        rows = [[title, *(f"{v[key]:.{digits}f}" if key in v else "" for v in found.values())] for title, key, digits in values]
        parts.append(_table([label, *found], rows) + _repeat(results, file, record))
    return "\n".join(parts)


def _optics_real(results: Path) -> str:
    """Optics of real apoferritin."""
    record = _read(results, "ctf_refine_apoferritin")
    names = {"refined": "refined", "further": "further", "after": "nine kinds together", "inside": "inside",
             "after_bfactor": "B factors alone", "after_tilt": "coma alone", "after_magnification": "magnification alone"}
    rows = [[label, *(f"{record['results'][key][k]:.{d}f}" for k, d in (
        ("half_0143_unmasked", 2), ("model_mean_05", 2), ("model_mean_0143", 2), ("model_mean_average", 3)))]
        for key, label in names.items()]
    return _table(["", "half maps 0.143 unmasked, A", "map to model, FSC 0.5, A", "FSC 0.143, A", "mean FSC beyond 12 A"],
                  rows) + _repeat(results, "ctf_refine_apoferritin", record)


def _ewald(results: Path) -> str:
    """Thick particles, flat and corrected."""
    record = _read(results, "ewald")
    rows = []
    for case, ways in ((c, record["cases"][c]["ways"]) for c in ("large", "small")):
        rows += [[f"{case}, {label}", f"{ways[key]['truth_mean_05']:.2f}", f"{ways[key]['truth_mean_average']:.4f}"]
                 for key, label in (("off", "flat"), ("positive", "right sign"), ("negative", "wrong sign"))]
    return _table(["", "map to truth, FSC 0.5, A", "mean FSC beyond 12 A"], rows) + _repeat(results, "ewald", record)


def _speed(results: Path) -> str:
    """Whole refinements, beside version 0.1.0."""
    before, now = _read(results, "whole_0.1.0"), _read(results, "whole_now")
    rows = []
    for name, v in now["results"].items():
        b = before["results"].get(name)
        if b:
            rows.append([name, f"{b['cpu_seconds']:.0f} → {v['cpu_seconds']:.0f}", *(
                f"{b[k]:.{d}f} → {v[k]:.{d}f}" for k, d in (("pose_median", 2), ("truth_mean_05", 2), ("truth_mean_average", 3)))])
    return _table(["set, particles, seed, regulariser", "CPU seconds", "pose error, deg", "map to truth, FSC 0.5, A",
                   "mean FSC beyond 12 A"], rows) + _repeat(results, "whole_now", now)


def _kernels(results: Path) -> str:
    """Compiled kernels beside plain torch."""
    record = _read(results, "kernels")
    rows = [[work, name, *(f"{v[box]:,.0f}" for box in ("64", "128", "256"))]
            for work, found in record["per_core_second"].items() for name, v in found.items()]
    return _table(["a second of one core", "", "box 64", "box 128", "box 256"], rows) + _repeat(results, "kernels", record)


def _memory(results: Path) -> str:
    """Memory measured and planned."""
    record = _read(results, "memory")
    rows = [[name, *(f"{v[part][kind] / 1e6:,.0f}" for part in ("half maps", "regulariser") for kind in ("measured", "planned"))]
            for name, v in record["bytes"].items()]
    return _table([f"MB, box {record['box']}", "half maps, mask, FSC: measured", "planned", "regulariser: measured", "planned"],
                  rows) + _repeat(results, "memory", record)


def _crosses(results: Path) -> str:
    """What each regulariser lets cross, in its own words."""
    from halfmap.regularisation.nonuniform import NonUniform
    from halfmap.regularisation.cutoff import Cutoff
    from halfmap.regularisation.local_fsc import LocalFsc
    from halfmap.regularisation.sidesplitter import Sidesplitter
    from halfmap.regularisation.sparse_smooth import SparseSmooth
    from halfmap.regularisation.wiener import Uniform

    made = {one.name: one for one in (Uniform(), NonUniform(), SparseSmooth(), Cutoff(), Sidesplitter(), LocalFsc())}
    made |= {f"sparse_smooth --ss-parameters {p}": SparseSmooth(parameters=p) for p in ("local", "published-code")}
    return _table(["regulariser", "what crosses"], [[f"`{name}`", one.crosses] for name, one in made.items()])


def _slurm(results: Path) -> str:
    """The job for SLURM."""
    script = (results.parents[1] / "docs" / "slurm.sh").read_text(encoding="utf-8")
    return f"```bash\n{script}```\n"


BLOCKS: dict[str, Callable[[Path], str]] = {
    **python_api.blocks(), "crosses": _crosses, "by-regulariser": _by_regulariser, "regularisers-brief": _regularisers_brief,
    "fewer-particles": _fewer_particles, "conditions": _conditions, "apoferritin": _apoferritin,
    "nonuniform-options": _nonuniform_options, "sparse-smooth-strengths": _strengths, "relion": _relion, "noise": _noise,
    "starts": _starts, "classes": _classes, "junk": _junk, "optics": _optics, "optics-real": _optics_real, "ewald": _ewald,
    "speed": _speed, "kernels": _kernels, "memory": _memory, "slurm": _slurm,
}
