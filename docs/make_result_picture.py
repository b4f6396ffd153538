"""Draws docs/result.png: slices of the starting map, the refined map and the truth, and the half-map FSC.

    python docs/make_result_picture.py RUN initial.mrc truth.mrc docs/result.png

RUN is the folder of a finished `halfmap refine`. Needs matplotlib, which Halfmap itself does not.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from halfmap.maps.filters import lowpass
from halfmap.maps.mrc import read_map
from halfmap.report.pictures.slices import fourier_resize

SHOWN = 0.88  # of the box's side, about its centre
FINER = 6  # pixels drawn per voxel
CURVES = (("fsc", "unmasked", "#1f5fb4"), ("fsc_corrected", "masked, corrected", "#6a3db0"))


def central_slice(path: Path, resolution: float | None) -> tuple[np.ndarray, float]:
    """The slice [z, x] through the centre, resampled by its Fourier transform, and its side in angstrom."""
    read = read_map(path)
    box = read.data.shape[-1]
    data = read.data if resolution is None else lowpass(read.data, read.pixel_size, resolution)
    image = fourier_resize(data[:, box // 2].numpy(), box * FINER)
    margin = round((1 - SHOWN) / 2 * len(image))
    return image[margin:-margin, margin:-margin], SHOWN * box * read.pixel_size


def draw_slice(axes: plt.Axes, path: Path, title: str, resolution: float | None = None) -> None:
    """One grey picture, protein light, low-passed to ``resolution`` angstrom, with a bar of 50 A."""
    image, side = central_slice(path, resolution)
    low, high = np.percentile(image, (1, 99.8))
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(0, side, side, 0))
    axes.plot((side - 60, side - 10), (side - 9, side - 9), color="white", lw=2)
    axes.text(side - 35, side - 13, "50 Å", color="white", ha="center", fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.axis("off")


def draw_fsc(axes: plt.Axes, run: Path) -> None:
    """The curves of the last iteration against resolution."""
    last = json.loads((run / "iterations.jsonl").read_text().splitlines()[-1])
    side = last["box"] * last["pixel_size"]
    for key, name, colour in CURVES:
        axes.plot(np.arange(len(last[key])) / side, last[key], color=colour, label=name, lw=1.8)
    axes.axhline(0.143, color="0.5", lw=0.8, ls=":")
    ticks = [d for d in (40, 20, 12, 8, 6, 5, 4, 3, 2) if d >= 2 * last["pixel_size"]]
    axes.set_xticks([1 / d for d in ticks], [str(d) for d in ticks])
    axes.set(xlim=(0, 0.5 / last["pixel_size"]), ylim=(-0.05, 1.03), xlabel="resolution (Å)")
    axes.set_title("Fourier shell correlation of the half maps", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "initial", "truth", "picture"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.1), width_ratios=(1, 1, 1, 1.35), layout="constrained")
    draw_slice(axes[0], given.initial, "starting map, 30 Å")
    draw_slice(axes[1], given.run / "map.mrc", "refined")
    draw_slice(axes[2], given.truth, "the protein simulated, 7 Å", 7.0)
    draw_fsc(axes[3], given.run)
    figure.savefig(given.picture, dpi=110)


if __name__ == "__main__":
    main()
