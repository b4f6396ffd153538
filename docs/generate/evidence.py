"""Blocks of pages by name: tables and figures from benchmarks/results, and what other generators make."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from generate import costs, included, python_api, regularisers
from generate.figures import curves
from generate.paper_scale import paper_scale
from generate.tables import limit, read, repeat, table


def _relion(results: Path) -> str:
    """RELION 3.1.3 and Halfmap, one after the other."""
    record = read(results, "against_relion_gpcr-micelle")
    r, h = record["results"]["RELION"], record["results"]["Halfmap"]
    picture = curves(
        {"RELION 3.1.3": r["truth_mean_fsc"], "Halfmap, uniform": h["truth_mean_fsc"]},
        192.0,
        "FSC with the truth",
        "FSC of the mean of the half maps with the truth, within the rigid part, 500 particles.",
    )
    return (
        picture
        + "\n"
        + table(["", "RELION 3.1.3", "Halfmap"], _beside(r, h))
        + repeat(results, "against_relion_gpcr-micelle", record)
    )


def _beside(*runs: dict[str, Any]) -> list[list[str]]:
    """Rows of a table of runs: what each cost, and how near it came."""
    return [
        ["CPU seconds (RELION's waiting leader left out)", *(f"{v['cpu_seconds']:.0f}" for v in runs)],
        ["wall seconds", *(f"{v['wall_seconds']:.0f}" for v in runs)],
        [
            "pose error, median and 80th percentile, deg",
            *(f"{v['pose_median']:.2f}, {v['pose_p80']:.2f}" for v in runs),
        ],
        ["off by more than 10 deg", *(f"{100 * v['pose_above10']:.1f} %" for v in runs)],
        [
            "mean of the half maps against truth, FSC 0.5 and 0.143, A",
            *(f"{limit(v['truth_mean_05'])}, {limit(v['truth_mean_0143'])}" for v in runs),
        ],
        ["half maps, FSC 0.143 unmasked, A", *(f"{v['half_0143_unmasked']:.2f}" for v in runs)],
        ["peak memory, MB", *(f"{v['peak_rss_mb']:,.0f}" for v in runs)],
    ]


def _relion_on(name: str) -> Callable[[Path], str]:
    """The same of a simulated membrane protein."""

    def made(results: Path) -> str:
        record = read(results, f"against_relion_{name}")
        rows = _beside(record["results"]["RELION"], record["results"]["Halfmap"])
        return table(["", "RELION 3.1.3", "Halfmap"], rows) + repeat(results, f"against_relion_{name}", record)

    return made


def _noise(results: Path) -> str:
    """FSC of half maps of noise, in standard deviations of chance."""
    sparse, non = read(results, "noise_only_sparse_smooth"), read(results, "noise_only_nonuniform")
    found = {
        "uniform": sparse["uniform"],
        "nonuniform": non["--nu-uneven-sampling corrected"],
        "cross-validated": sparse["cross-validated"],
        "sparse_smooth": sparse["fixed"],
        "joined": sparse["joined"],
        "published-code": sparse["published-code"],
    }
    lines, rows = {}, []
    for name, one in found.items():
        v = one["results"]
        first = v["first_shell"]
        lines[name] = [
            0.0 if s < first else f / b for s, (f, b) in enumerate(zip(v["half_fsc"], v["null_band"], strict=True))
        ]
        rows.append(
            [name, *(f"{v[key]['largest']:.1f}, {v[key]['mean']:.1f}" for key in ("half_maps", "half_maps_masked"))]
        )
    side = 96 * 3.0  # the scripts' default: 96 px of 3 A
    return (
        curves(
            lines,
            side,
            "FSC / sd of chance",
            "FSC of unmasked half maps of 1,000 images of noise, in standard deviations of chance, beyond the start. "
            "The band is 4.",
            4.0,
            first,
        )
        + "\n"
        + table(["regulariser", "unmasked: largest of a shell, of their mean", "within the mask"], rows)
        + repeat(results, "noise_only_sparse_smooth", sparse["uniform"])
    )


def _starts(results: Path) -> str:
    """Every start of `halfmap start` as a trial."""
    labels = {
        "gpcr_800": "receptor in detergent",
        "gpcr_200": "receptor in detergent",
        "gpcr_2000": "receptor in detergent",
        "gpcr_800_noise30": "receptor, 30 % noise",
        "gpcr_400_noise50": "receptor, half noise",
        "transporter_C1_800": "transporter in detergent",
        "transporter_C1_600_noise30": "transporter, 30 % noise",
        "channel_C4_800": "channel in detergent",
        "dimer_C2_800": "dimer in detergent",
        "half_tetramer_C2_800": "dimer, 53 kDa",
        "tetramer_D2_800": "tetramer, 105 kDa",
        "apoferritin_O_1300": "real apoferritin, to 9 A",
    }
    record = read(results, "starts")
    rows = []
    for key, label in labels.items():
        v = record[key]
        right = [f"{start['right']:.2f}".lstrip("0") for start in v["starts"]]
        agree = [f"{s['same_pose_as_best']:.2f}".lstrip("0") for s in v["starts"][1:] if "same_pose_as_best" in s]
        rows.append(
            [
                label,
                str(v["images"]),
                v["symmetry"],
                " ".join(right),
                " ".join(agree),
                f"{v['best_right_when_finished']:.2f}",
            ]
        )
    return table(
        [
            "images of",
            "number",
            "symmetry",
            "right poses of each start",
            "same pose as the best",
            "best, taken further",
        ],
        rows,
    ) + repeat(results, "starts", record["gpcr_800"]["circumstances"])


def _classes(results: Path) -> str:
    """Two molecules in one set of images."""
    record = read(results, "classes")
    rows = [
        [
            name,
            " and ".join(", ".join(map(str, v[key])) for key in ("first", "second")) if "first" in v else "",
            f"{100 * v['right']:.1f} %" if "right" in v else "",
            f"{v['cpu_seconds']:.0f}",
        ]
        for name, v in record["results"].items()
    ]
    first = next(iter(record["results"].values()))
    head = ["images, poses, search", "images of the whole molecule by class, and of the partial one", "right", "CPU s"]
    return table(head, rows) + repeat(
        results, "classes", {"benchmark": first["benchmark"], "time": record["time"], "commit": record["commit"]}
    )


def _junk(results: Path) -> str:
    """Particles among noise and broken particles, against the same ones alone."""
    rows = []
    for file in ("mixed", "mixed_seed2"):
        found = read(results, file)["results"]
        for name, v in found.items():
            if name.endswith(" alone"):
                continue
            alone = found[f"{name} alone"]
            _, share, _, seed, regulariser = name.split()
            rows.append(
                [
                    f"{share}, {v['real']}",
                    seed,
                    regulariser,
                    *(f"{w['pose_median']:.2f}, {w['pose_p80']:.1f}" for w in (alone, v)),
                    *(f"{w['truth_mean_average']:.3f}" for w in (alone, v)),
                ]
            )
    return table(
        [
            "junk, intact particles",
            "seed",
            "regulariser",
            "pose error alone, median and 80th percentile, deg",
            "with junk",
            "mean FSC beyond 12 A alone",
            "with junk",
        ],
        rows,
    ) + repeat(results, "mixed", read(results, "mixed"))


def _said(results: Path) -> str:
    """What a run says under conditions that go wrong in practice."""
    record = read(results, "conditions")
    rows = []
    for name, v in record["results"].items():
        pose, truth, half = (
            "" if v.get(key) is None else f"{v[key]:.1f}" for key in ("pose_median", "truth_05", "half_maps")
        )
        told = [*v.get("warnings", []), *(f"({note})" for note in v.get("notes", []))]
        said = v.get("refused") or ", ".join(told)
        rows.append([name, pose, truth, half, v.get("verdict", ""), said])
    head = ["condition", "pose error, deg", "truth, FSC 0.5, A", "half maps, A", "", "said (in brackets: notes)"]
    return table(head, rows) + repeat(results, "conditions", record)


def _classes2d(results: Path) -> str:
    """What two-dimensional classes keep of particles and junk."""
    record = read(results, "classes2d")
    kinds = ("intact", "noise", "micelle", "broken", "two", "intact among kept")
    rows = []
    for name, v in record["results"].items():
        for rule, kept in v["kept"].items():
            if rule == "by the page's rule" and "by resolution alone" not in v["kept"]:
                rule = "by resolution alone"  # which was the page's rule when these were measured
            rows.append([name.replace("halfmap_", ""), rule, *(f"{kept[k]:.2f}" if k in kept else "" for k in kinds)])
    return table(["images, classes, seed", "kept", *kinds], rows) + repeat(results, "classes2d", record)


def _optics(results: Path) -> str:
    """Wrong optics, fitted and not."""
    parts = []
    for file, label in (("ctf_refine", "first seed"), ("ctf_refine_seed2", "second seed")):
        record = read(results, file)
        found = {name: v for name, v in record["results"].items() if "truth_mean_05" in v}
        values = (
            ("map to truth, FSC 0.5, A", "truth_mean_05", 2),
            ("mean FSC beyond 12 A", "truth_mean_average", 3),
            ("pose error, median, deg", "pose_median", 3),
            ("defocus error, A", "defocus_sd", 0),
            ("beam tilt error, mrad", "tilt", 3),
            ("trefoil error, rad at 3 A", "trefoil", 3),
            ("magnification error, %", "magnification", 3),
        )
        rows = [
            [title, *(f"{v[key]:.{digits}f}" if key in v else "" for v in found.values())]
            for title, key, digits in values
        ]
        parts.append(table([label, *found], rows) + repeat(results, file, record))
    return "\n".join(parts)


def _optics_real(results: Path) -> str:
    """Optics of real apoferritin."""
    record = read(results, "ctf_refine_apoferritin")
    names = {
        "refined": "refined",
        "further": "further",
        "after": "nine kinds together",
        "inside": "inside",
        "after_bfactor": "B factors alone",
        "after_tilt": "coma alone",
        "after_magnification": "magnification alone",
    }
    rows = [
        [
            label,
            *(
                f"{record['results'][key][k]:.{d}f}"
                for k, d in (
                    ("half_0143_unmasked", 2),
                    ("model_mean_05", 2),
                    ("model_mean_0143", 2),
                    ("model_mean_average", 3),
                )
            ),
        ]
        for key, label in names.items()
    ]
    return table(
        ["", "half maps 0.143 unmasked, A", "map to model, FSC 0.5, A", "FSC 0.143, A", "mean FSC beyond 12 A"], rows
    ) + repeat(results, "ctf_refine_apoferritin", record)


def _ewald(results: Path) -> str:
    """Thick particles, flat and corrected."""
    record = read(results, "ewald")
    rows = []
    for case, ways in ((c, record["cases"][c]["ways"]) for c in ("large", "small")):
        rows += [
            [f"{case}, {label}", f"{ways[key]['truth_mean_05']:.2f}", f"{ways[key]['truth_mean_average']:.4f}"]
            for key, label in (("off", "flat"), ("positive", "right sign"), ("negative", "wrong sign"))
        ]
    return table(["", "map to truth, FSC 0.5, A", "mean FSC beyond 12 A"], rows) + repeat(results, "ewald", record)


def _slurm(results: Path) -> str:
    """The job for SLURM."""
    script = (results.parents[1] / "docs" / "slurm.sh").read_text(encoding="utf-8")
    return f"```bash\n{script}```\n"


BLOCKS: dict[str, Callable[[Path], str]] = {
    **python_api.blocks(),
    **regularisers.BLOCKS,
    **costs.BLOCKS,
    "relion": _relion,
    "relion-channel": _relion_on("channel"),
    "relion-transporter": _relion_on("transporter"),
    "noise": _noise,
    "starts": _starts,
    "classes": _classes,
    "junk": _junk,
    "said": _said,
    "classes2d": _classes2d,
    "optics": _optics,
    "optics-real": _optics_real,
    "ewald": _ewald,
    "slurm": _slurm,
    "paper-scale": paper_scale,
    "example-package": included.example_package,
}
