"""A shaded picture of a map's isosurface, as a structural biologist knows it from a molecular viewer.

Rays run along the viewing direction and stop where the map, linear between voxels, first reaches the level. The light
is a key light, a fill light and the sky, of which hollows see little. The background is transparent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.fourier.transform import resample_volume
from halfmap.report.pictures.colours import coloured
from halfmap.report.record_values import Array

Colours = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # values [i] to sRGB [i,3] in [0, 1]
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
Vector = tuple[float, float, float]  # x, y, z

PLAIN: Colour = (0.66, 0.75, 0.86)
STEP = 0.5  # voxels of the map between samples of a ray
FINE_BOX = 128  # voxels: a map up to this box is first sampled twice as finely, so that the surface has no facets
SUPERSAMPLED = 2  # rays along each side of a pixel
MARGIN = 1.04  # half the width of the picture, as a multiple of the surface's radius
KEY, FILL = (-0.42, 0.62, 0.66), (0.75, -0.05, 0.66)  # directions of the lights: right, up, towards the viewer


@dataclass(frozen=True)
class View:
    """How a map is seen.

    right, up, towards: unit vectors in the map that point right, up and towards the viewer in the picture,
    right-handed; centre: the voxel (x, y, z) in the middle of the picture (None: the middle of the surface); reach:
    voxels from the middle to the edge of the picture (None: the whole surface from any side).
    """

    right: Vector
    up: Vector
    towards: Vector
    centre: Vector | None = None
    reach: float | None = None

    @property
    def axes(self) -> tuple[Vector, ...]:
        """The rotation from the map to the picture: rows right, up, towards."""
        return self.right, self.up, self.towards


def turned(azimuth: float, elevation: float) -> View:
    """The view of someone who walks around the z axis, which points up.

    azimuth: degrees from the place where x points right; elevation: degrees above the horizon (90: along z, as ChimeraX
    first shows a map).
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    right = (math.cos(a), math.sin(a), 0.0)
    towards = (math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e))
    up = (-math.sin(e) * math.sin(a), math.sin(e) * math.cos(a), math.cos(e))
    return View(right, up, towards)


SIDE = turned(25.0, 12.0)


def render_surface(volume: Array | Tensor, level: float, *, view: View | None = None, values: Array | None = None,
                   colours: Colours | Colour | None = None, width: int = 480, dust: float = 0.01) -> NDArray[np.uint8]:
    """The isosurface of a map [z,y,x] at `level`, seen in parallel projection: RGBA [y,x,4], `width` pixels square.

    view: None for `SIDE`; values: a second map [z,y,x] on the same grid that colours the surface; colours: the colours
    of these values, by default the report's scale from the 2nd to the 98th percentile on the surface, or without values
    one plain colour; dust: pieces with less than this share of the largest one's voxels are left out (0 keeps all). A
    map that nowhere reaches the level gives an empty picture. Raises ValueError for arrays that are not cubes of one
    size.
    """
    data = torch.as_tensor(np.ascontiguousarray(volume) if isinstance(volume, np.ndarray) else volume).float()
    if data.ndim != 3 or len(set(data.shape)) != 1 or (values is not None and tuple(data.shape) != np.shape(values)):
        raise ValueError(f"not cubes of one size: {tuple(data.shape)}, {None if values is None else np.shape(values)}")
    fine = 2 if data.shape[0] <= FINE_BOX else 1
    body = _body(resample_volume(data, fine * data.shape[0]) if fine > 1 else data, level, dust)
    if body is None:
        return np.zeros((width, width, 4), dtype=np.uint8)
    camera = _camera(body, view or SIDE, fine, data.shape[0], SUPERSAMPLED * width)
    hits = _hits(body, camera, STEP * fine)
    normal = _normals(body, hits.point)
    paint = _paint(None if values is None else torch.as_tensor(np.ascontiguousarray(values)).float(),
                   (hits.point + body.corner) / fine + body.shift(fine, data.shape[0]), colours)
    shade = _light(normal @ camera.axes.T.float(), _openness(body, hits.point, normal))
    return _developed(paint * shade, hits, camera)


@dataclass(frozen=True)
class _Body:
    """The part of a map that holds the surface, on the fine grid along which rays march.

    data: [z,y,x]; corner: its first voxel (x, y, z) on that grid.
    """

    data: Tensor
    level: float
    corner: Tensor

    def shift(self, fine: int, box: int) -> float:
        """The number to add to a fine coordinate divided by `fine` to get a voxel of the given map.

        Centres stay on n // 2.
        """
        return box // 2 - (fine * box // 2) / fine


def _body(data: Tensor, level: float, dust: float) -> _Body | None:
    """The part of a map [z,y,x] that holds the surface, without dust; None if nothing reaches the level."""
    from scipy import ndimage

    above = (data >= level).numpy()
    if not above.any():
        return None
    box = tuple(slice(max(int(hit[0]) - 3, 0), int(hit[-1]) + 4)
                for hit in (np.flatnonzero(above.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)))
    data, above = data[box], above[box]
    if dust > 0:
        label, number = ndimage.label(above)
        size = np.bincount(label.ravel(), minlength=number + 1)
        size[0] = 0
        small = size < dust * size.max()
        small[0] = False
        if small.any():
            gone = torch.from_numpy(small[label])
            # Dust is mirrored at the level, so that what is left keeps its surface to the last fraction of a voxel.
            data = torch.where(gone, 2 * level - data - 1e-3 * abs(level) - 1e-12, data)
            kept = above & ~gone.numpy()
            inner = ndimage.find_objects(kept.astype(np.int8))[0]
            inner = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in inner)
            box = tuple(slice(b.start + i.start, b.start + i.stop) for b, i in zip(box, inner, strict=True))
            data = data[inner]
    # Values below the level all around close a surface that the edge of the box cuts.
    low = min(float(data.min()), level - 1e-6 * abs(level) - 1e-12)
    data = torch.nn.functional.pad(data, (1,) * 6, value=low).contiguous()
    corner = torch.tensor([s.start - 1 for s in reversed(box)], dtype=torch.float32)
    return _Body(data, level, corner)


@dataclass(frozen=True)
class _Camera:
    """Where the picture is taken.

    axes: rows right, up, towards (x, y, z) [3,3]; centre: middle of the picture in voxels of the body; scale: voxels to
    a pixel; side: pixels along a side.
    """

    axes: Tensor
    centre: Tensor
    scale: float
    side: int


def _camera(body: _Body, view: View, fine: int, box: int, side: int) -> _Camera:
    axes = torch.tensor(view.axes, dtype=torch.float64)
    shell = _shell(body)
    if view.centre is None:
        low, high = shell.min(0).values.double(), shell.max(0).values.double()
        centre = (low + high) / 2
    else:
        given = torch.tensor(view.centre, dtype=torch.float64)
        centre = (given - body.shift(fine, box)) * fine - body.corner.double()
    if view.reach is None:
        reach = MARGIN * float((shell - centre.float()).norm(dim=1).max()) + 1
    else:
        reach = view.reach * fine
    return _Camera(axes, centre, 2 * reach / side, side)


def _shell(body: _Body) -> Tensor:
    """Voxels (x, y, z) [i,3] at or above the level that have a neighbour below it."""
    above = (body.data >= body.level).float()[None, None]
    inner = -torch.nn.functional.max_pool3d(-above, 3, 1, 1)
    return torch.nonzero((above > 0)[0, 0] & (inner == 0)[0, 0]).flip(1).float()


def _samples(data: Tensor, point: Tensor) -> Tensor:
    """Values [i] of data [z,y,x] at points [i,3] (x, y, z in voxels), linear between voxels.

    A point beyond the edge takes the value at the edge.
    """
    size = torch.tensor(data.shape[::-1], dtype=torch.float32)
    place = (2 * point.float() / (size - 1) - 1)[None, None, None]
    return torch.nn.functional.grid_sample(data[None, None], place, padding_mode="border", align_corners=True).flatten()


@dataclass(frozen=True)
class _Hits:
    """Where rays meet the surface: pixel [i], depth [i] (voxels towards the viewer), point [i,3] (voxels x, y, z)."""

    pixel: Tensor
    depth: Tensor
    point: Tensor


def _hits(body: _Body, camera: _Camera, step: float) -> _Hits:
    """Follow the rays, sampled every `step` voxels, to the surface. Rays that miss it are left out."""
    right, up, towards = camera.axes.float()
    bounds = _bounds(body, camera)
    pixel, near, far = bounds.pixel, bounds.near, bounds.far
    row, column = pixel // camera.side, pixel % camera.side
    half = 0.5 * (camera.side - 1)
    foot = (camera.centre.float() + ((column - half) * camera.scale)[:, None] * right
            + ((half - row) * camera.scale)[:, None] * up)
    before = torch.full_like(near, -math.inf)
    depth = near.clone()
    live = torch.arange(len(pixel))
    struck, struck_depth = [], []
    while len(live):
        value = _samples(body.data, foot[live] + depth[:, None] * towards)
        hit = value >= body.level
        part = ((body.level - before) / (value - before)).clamp(0, 1)
        part = torch.where(torch.isfinite(before), part, 1.0)
        struck.append(live[hit])
        struck_depth.append((depth + step * (1 - part))[hit])
        on = ~hit & (depth > far)
        live, before, depth, far = live[on], value[on], depth[on] - step, far[on]
    found, at = torch.cat(struck), torch.cat(struck_depth)
    return _Hits(pixel[found], at, foot[found] + at[:, None] * towards)


@dataclass(frozen=True)
class _Bounds:
    """Pixels [i] that may show the surface, and the depths [i] between which it lies there (voxels, near > far)."""

    pixel: Tensor
    near: Tensor
    far: Tensor


def _bounds(body: _Body, camera: _Camera) -> _Bounds:
    """Bound the rays by a coarse picture of the shell, one voxel to a pixel.

    This is safe because every point of the surface has a voxel of the shell within the diagonal of a voxel.
    """
    seen = (_shell(body).double() - camera.centre) @ camera.axes.T
    count = math.ceil(camera.scale * camera.side) + 8
    cell = (seen[:, :2] + count / 2).floor().long()
    inside = ((cell >= 0) & (cell < count)).all(1)
    index, depth = (cell[:, 1] * count + cell[:, 0])[inside], seen[inside, 2].float()
    near = torch.full((count * count,), -math.inf).scatter_reduce(0, index, depth, "amax").reshape(1, 1, count, count)
    far = torch.full((count * count,), -math.inf).scatter_reduce(0, index, -depth, "amax").reshape(1, 1, count, count)
    near, far = (torch.nn.functional.max_pool2d(v, 5, 1, 2)[0, 0] + 2 for v in (near, far))
    line = (torch.arange(camera.side) - 0.5 * (camera.side - 1)) * camera.scale + count / 2
    line = line.floor().long().clamp(0, count - 1)
    near, far = near[line.flip(0)][:, line].flatten(), -far[line.flip(0)][:, line].flatten()
    pixel = torch.nonzero(torch.isfinite(near)).flatten()
    return _Bounds(pixel, near[pixel], far[pixel])


def _normals(body: _Body, point: Tensor) -> Tensor:
    """Unit normals [i,3] (x, y, z) out of the surface, down the gradient of the slightly smoothed map."""
    smooth = _blurred(body.data, 0.8)
    step = torch.eye(3)
    slope = torch.stack([_samples(smooth, point - s) - _samples(smooth, point + s) for s in step], dim=1)
    return torch.nn.functional.normalize(slope, dim=1)


def _blurred(data: Tensor, sigma: float) -> Tensor:
    from scipy import ndimage

    return torch.from_numpy(ndimage.gaussian_filter(data.numpy(), sigma, truncate=3.0))


def _openness(body: _Body, point: Tensor, normal: Tensor) -> Tensor:
    """How much sky each point sees [i], 0 to 1: how empty the space in front of it is, near by and further off."""
    solid = (body.data >= body.level).float()[None, None]
    size = max(body.data.shape)
    result = torch.ones(len(point))
    for reach, strength in ((0.018 * size + 1, 0.55), (0.06 * size + 1, 0.75)):
        pooled = max(1, int(reach / 2))
        padding = [(pooled - n % pooled) % pooled for n in body.data.shape]
        grown = torch.nn.functional.pad(solid, (0, padding[2], 0, padding[1], 0, padding[0]))
        coarse = torch.nn.functional.avg_pool3d(grown, pooled)[0, 0]
        coarse = torch.nn.functional.pad(coarse, (4,) * 6)
        filled = _blurred(coarse, reach / pooled)
        place = (point + 0.9 * reach * normal - (pooled - 1) / 2) / pooled + 4
        # In front of a plane a fifth of the blur is filled, and a plane sees open sky.
        result *= 1 - strength * ((_samples(filled, place) - 0.2) / 0.6).clamp(0, 1)
    return result


def _paint(values: Tensor | None, point: Tensor, colours: Colours | Colour | None) -> Tensor:
    """The colour [i,3] of the surface at points [i,3], before it is lit."""
    if values is None:
        plain = colours if isinstance(colours, tuple) else PLAIN
        return torch.tensor(plain).expand(len(point), 3)
    at = _samples(values, point).double().numpy()
    if callable(colours):
        return torch.from_numpy(np.asarray(colours(at))).float()
    low, high = np.percentile(at, (2, 98)) if len(at) else (0.0, 1.0)
    return torch.from_numpy(coloured((at - low) / max(high - low, 1e-12))).float()


def _light(normal: Tensor, sky: Tensor) -> Tensor:
    """Brightness [i,1] of points with normals [i,3] (right, up, towards) that see a share of the sky [i]."""
    key, fill = (torch.nn.functional.normalize(torch.tensor(light), dim=0) for light in (KEY, FILL))
    shine = torch.nn.functional.normalize(key + torch.tensor([0.0, 0.0, 1.0]), dim=0)
    soft = (0.5 + 0.5 * (normal @ key)).clamp(min=0).square()
    sky_light = (0.46 + 0.16 * normal[:, 1]) * sky
    light = sky_light + 0.62 * soft * (0.45 + 0.55 * sky) + 0.22 * (normal @ fill).clamp(min=0) * sky
    return (light + 0.1 * (normal @ shine).clamp(min=0) ** 24)[:, None]


def _developed(light: Tensor, hits: _Hits, camera: _Camera) -> NDArray[np.uint8]:
    """RGBA [y,x,4] from the light [i,3] of each hit: fog with depth, lines where the surface steps back, then pixels
    averaged over their rays."""
    pixel, depth, side = hits.pixel, hits.depth, camera.side
    width = side // SUPERSAMPLED
    if not len(pixel):
        return np.zeros((width, width, 4), dtype=np.uint8)
    reach = 0.5 * camera.scale * side
    fog = 1 - 0.22 * ((depth.max() - depth) / (2 * reach)).clamp(0, 1)
    at = torch.full((side * side,), -2 * reach)
    at[pixel] = depth
    image = at.reshape(1, 1, side, side)
    behind = -torch.nn.functional.max_pool2d(-image, 3, 1, 1)
    step = ((image - behind).flatten()[pixel] / reach - 0.05) / 0.1
    line = 1 - 0.45 * step.clamp(0, 1)
    rgba = torch.zeros(side * side, 4)
    rgba[pixel, :3] = (light * (fog * line)[:, None]).clamp(0, 1)
    rgba[pixel, 3] = 1.0
    blocks = rgba.reshape(width, SUPERSAMPLED, width, SUPERSAMPLED, 4).sum((1, 3))
    colour = blocks[..., :3] / blocks[..., 3:].clamp(min=1)
    alpha = blocks[..., 3:] / SUPERSAMPLED**2
    return np.rint(255 * torch.cat([colour, alpha], 2).numpy()).astype(np.uint8)
