"""Pictures of images that probably hold no particle, beside some that do, on the page of a refinement."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from halfmap.errors import InputError
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import fourier_resize, usable
from halfmap.report.record_values import Array, plain_value
from halfmap.workflows.inspect_images import LOWPASS
from halfmap.workflows.particle_examples import Example, particle_examples

TILE = 80  # pixels along the side of a picture: low-passed images hold no more
GREY = 3.0  # standard deviations from black to the middle grey


@dataclass(frozen=True)
class ExamplePicture:
    """An image and its projection of the map, PNGs as data URIs, with the probability and the image's name in words."""

    image: str
    expected: str
    probability: str
    name: str


@dataclass(frozen=True)
class ExamplePictures:
    """The pictures of both kinds of images, low-passed at so many A, or why there are none (missing)."""

    least: list[ExamplePicture] = field(default_factory=list)
    most: list[ExamplePicture] = field(default_factory=list)
    lowpass: float = LOWPASS
    missing: str = ""


def example_pictures(snapshot: Snapshot, pixel_size: float | None) -> ExamplePictures:
    """The pictures of a snapshot; pixel_size in A. They are empty where every image probably holds a particle."""
    volume = usable(snapshot.map)
    mask = None if volume is None else usable(snapshot.mask, len(volume))
    try:
        diameter = float(str(plain_value(snapshot.settings, "diameter")))
    except ValueError:
        diameter = 0.0
    if snapshot.particles is None:
        return ExamplePictures(missing="particles.star is missing or cannot be read")
    if volume is None or mask is None or not pixel_size or not diameter > 0:
        return ExamplePictures(missing="map, mask or diameter of the particle is missing")
    try:
        found = particle_examples(snapshot.particles, torch.from_numpy(volume * mask), pixel_size, diameter)
    except InputError as error:
        return ExamplePictures(missing=str(error))
    every = [*found.least, *found.most]
    if not every:
        return ExamplePictures()
    # One grey scale for all images and one for all projections, whose contrast the images' files do not tell.
    noise = GREY * float(np.median([one.image.std() for one in every]))
    signal = max(float(np.abs(one.expected).max()) for one in every)
    least, most = (_pictures(group, noise, signal) for group in (found.least, found.most))
    return ExamplePictures(least, most)


def _pictures(examples: Sequence[Example], noise: float, signal: float) -> list[ExamplePicture]:
    """noise, signal: value of an image and of a projection that is white; zero is the middle grey."""
    return [
        ExamplePicture(_picture(one.image, noise), _picture(one.expected, signal), _said(one.probability),
                       f"{one.number}@{one.stack}")
        for one in examples
    ]  # fmt: skip


def _picture(image: Array, white: float) -> str:
    small = fourier_resize(np.nan_to_num(image), min(TILE, image.shape[0]))
    grey = np.clip(127.5 * (1 + small / max(white, 1e-9)), 0, 255)
    return png_uri(np.rint(grey).astype(np.uint8))


def _said(probability: float) -> str:
    """A probability in words, as far as both of its ends are worth telling."""
    if probability < 0.0005:
        return "< 0.001"
    return "> 0.999" if probability > 0.9995 else f"{probability:.3f}"
