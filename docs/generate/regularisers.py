"""Evidence for regularisers: tables and figures by the truth of simulated particles, and by an atomic model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from generate.figures import dots
from generate.tables import read, repeat, table

SETS = {
    "gpcr-micelle": "receptor in a micelle, C1",
    "transporter": "transporter with a Fab, C1",
    "dimer": "dimer in a nanodisc, C2",
    "channel": "channel, C4",
}
METHODS = {
    "uniform": "uniform",
    "nonuniform": "nonuniform",
    "sparse_smooth fixed": "sparse_smooth",
    "sparse_smooth cross-validated": "cross-validated",
    "sparse_smooth published-code": "published-code",
    "joined": "joined",
}


def _of_both_seeds(record: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Means of two seeds with 2,000 particles, by set and regulariser."""
    keys = ("pose_median", "truth_mean_05", "truth_mean_average")
    return {
        label: {
            name: {k: sum(record["results"][f"{one} 2000 seed{seed} {method}"][k] for seed in (1, 2)) / 2 for k in keys}
            for method, name in METHODS.items()
        }
        for one, label in SETS.items()
    }


def _by_regulariser(results: Path) -> str:
    """Four membrane proteins, six regularisers, mean of two seeds, by the truth."""
    record = read(results, "sparse_smooth")
    found = _of_both_seeds(record)
    head = ["", *METHODS.values()]
    rows = [
        [
            label,
            *(
                f"{v['pose_median']:.2f} deg<br>{v['truth_mean_05']:.2f} A<br>{v['truth_mean_average']:.3f}"
                for v in row.values()
            ),
        ]
        for label, row in found.items()
    ]
    pictures = [
        dots({label: {name: v[key] for name, v in row.items()} for label, row in found.items()}, unit, caption)
        for key, unit, caption in (
            ("pose_median", "degrees", "Pose error (median; less is better), 2,000 particles, mean of two seeds."),
            ("truth_mean_average", "FSC", "Mean FSC of the map with the truth beyond 12 A (more is better)."),
        )
    ]
    return "\n".join(
        [
            *pictures,
            table(head, rows),
            "Each cell: pose error (median), resolution of the map against the truth (FSC 0.5), mean FSC with the "
            "truth beyond 12 A.\n",
            repeat(results, "sparse_smooth", record),
        ]
    )


def _regularisers_brief(results: Path) -> str:
    """The same as a small table of four regularisers, as the README has it."""
    shown = ("uniform", "nonuniform", "sparse_smooth", "joined")
    rows = [
        [label, *(f"{v['pose_median']:.2f} deg, {v['truth_mean_05']:.2f} A" for v in (row[name] for name in shown))]
        for label, row in _of_both_seeds(read(results, "sparse_smooth")).items()
    ]
    return table(["", "uniform", "nonuniform", "sparse_smooth", "joined"], rows)


def _fewer_particles(results: Path) -> str:
    """uniform and nonuniform with 500 to 2,000 particles."""
    record = read(results, "nonuniform")
    rows = []
    for key, label in SETS.items():
        for count in ("2000", "1000", "500"):
            u, n = (record["summary"][key][count][name] for name in ("uniform", "nonuniform"))
            rows.append(
                [
                    label,
                    f"{int(count):,}",
                    *(
                        f"{u[k]:.{d}f} → {n[k]:.{d}f}"
                        for k, d in (
                            ("pose_median", 2),
                            ("truth_mean_05", 2),
                            ("truth_mean_average", 3),
                            ("half_0143_unmasked", 2),
                        )
                    ),
                ]
            )
    return table(
        [
            "set",
            "particles",
            "pose error, deg",
            "map to truth, FSC 0.5, A",
            "mean FSC beyond 12 A",
            "half maps 0.143 unmasked, A",
        ],
        rows,
    ) + repeat(results, "nonuniform", record)


def _conditions(results: Path) -> str:
    """Preferred views, no belt, junk."""
    names = ("uniform", "as published", "nonuniform", "fixed", "joined")
    rows = []
    for file, label in (("preferred", "preferred views"), ("soluble", "no belt"), ("junk", "30 % junk")):
        found = read(results, f"conditions_{file}")["results"]
        rows += [
            [
                label,
                SETS[key],
                *(
                    f"{v['pose_median']:.2f}, {v['truth_mean_average']:.3f}"
                    for v in (found[f"{key} 2000 seed1 {name}"] for name in names)
                ),
            ]
            for key in ("transporter", "channel")
        ]
    return table(
        ["", "set", "uniform", "nonuniform, as published", "nonuniform", "sparse_smooth", "joined"], rows
    ) + "".join(
        repeat(results, f"conditions_{f}", read(results, f"conditions_{f}")) for f in ("preferred", "soluble", "junk")
    )


def _apoferritin(results: Path) -> str:
    """Real apoferritin against its atomic model."""
    sparse = read(results, "apoferritin_sparse_smooth")
    plain, non = (read(results, name)["results"] for name in ("apoferritin", "apoferritin_nonuniform"))
    later = read(results, "apoferritin_nonuniform_1200_now")["results"]
    found = [("1,200", "uniform", plain["O 1200"]), ("1,200", "nonuniform", later["O 1200"])]
    found += [
        ("1,200", "sparse_smooth" if name == "fixed" else name, sparse[name]["results"]["O 1200"])
        for name in ("fixed", "cross-validated", "published-code", "joined")
    ]
    found += [
        ("2,304", "uniform", plain["O 2304"]),
        ("2,304", "nonuniform", non["O 2304"]),
        ("2,304", "joined", sparse["joined, all"]["results"]["O 2304"]),
    ]
    rows = [
        [
            count,
            name,
            f"{v['half_0143_unmasked']:.2f}",
            f"{v['model_mean_05']:.2f}",
            f"{v['model_mean_average']:.3f}",
            f"{v['cpu_seconds']:.0f}",
        ]
        for count, name, v in found
    ]
    return table(
        [
            "particles",
            "regulariser",
            "half maps 0.143 unmasked, A",
            "map to model, FSC 0.5, A",
            "mean FSC beyond 12 A",
            "CPU s",
        ],
        rows,
    ) + repeat(results, "apoferritin", read(results, "apoferritin"))


def _nonuniform_options(results: Path) -> str:
    """Options of nonuniform and the methods it is compared with, on the receptor."""
    record = read(results, "nonuniform_options")
    rows = [
        [
            f"`{v['options'].replace('--regulariser ', '')}`",
            f"{v['pose_median']:.2f}, {v['pose_p80']:.2f}",
            f"{v['truth_mean_05']:.2f}",
            f"{v['truth_mean_average']:.3f}",
            str(v["iterations"]),
        ]
        for v in record["results"].values()
    ]
    default = read(results, "nonuniform")["results"]["gpcr-micelle 2000 seed1 nonuniform"]
    uniform = read(results, "nonuniform")["results"]["gpcr-micelle 2000 seed1 uniform"]
    first = [
        [
            name,
            f"{v['pose_median']:.2f}, {v['pose_p80']:.2f}",
            f"{v['truth_mean_05']:.2f}",
            f"{v['truth_mean_average']:.3f}",
            str(v["iterations"]),
        ]
        for name, v in (("`uniform`", uniform), ("`nonuniform`, defaults", default))
    ]
    return table(
        [
            "receptor, 2,000 particles, seed 1",
            "pose error, median and 80th percentile, deg",
            "map to truth, FSC 0.5, A",
            "mean FSC beyond 12 A",
            "iterations",
        ],
        first + rows,
    ) + repeat(results, "nonuniform_options", record)


def _strengths(results: Path) -> str:
    """The ways to set the strength of sparse_smooth: mean FSC with the truth."""
    shown = ("uniform", "sparse_smooth", "cross-validated", "published-code", "joined")
    rows = [
        [label, *(f"{row[name]['truth_mean_average']:.3f}" for name in shown)]
        for label, row in _of_both_seeds(read(results, "sparse_smooth")).items()
    ]
    return (
        table(
            [
                "mean FSC with the truth beyond 12 A",
                "`uniform`",
                "`fixed`",
                "`cross-validated`",
                "`published-code`",
                "`joined`",
            ],
            rows,
        )
        + "\n2,000 particles, mean of two seeds. [All figures](../evidence/regularisers.md).\n"
    )


def _crosses(_: Path) -> str:
    """What each regulariser lets cross, in its own words."""
    from halfmap.regularisation.sparse_smooth import SparseSmooth
    from halfmap.settings.regularisers import BUILT_IN, regulariser_named

    made = {one.name: regulariser_named(one.name) for one in BUILT_IN}
    made["sparse_smooth --ss-parameters published-code"] = SparseSmooth(parameters="published-code")
    return table(["regulariser", "what crosses"], [[f"`{name}`", one.crosses] for name, one in made.items()])


BLOCKS: dict[str, Callable[[Path], str]] = {
    "by-regulariser": _by_regulariser,
    "regularisers-brief": _regularisers_brief,
    "fewer-particles": _fewer_particles,
    "conditions": _conditions,
    "apoferritin": _apoferritin,
    "nonuniform-options": _nonuniform_options,
    "sparse-smooth-strengths": _strengths,
    "crosses": _crosses,
}
