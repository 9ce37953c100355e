"""Invented patients: a procedural CT of the upper abdomen with its labels, for the demonstration and for tests.

A patient is a list of smooth solids in the patient's space (millimetres), painted one over the other onto the grid of
a scan. A solid is a field that is negative inside. Its slope tells how much of each voxel the solid fills, so edges
show partial volume on any grid, thick or oblique, without drawing the scene finely first.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, reorder

LIVER, SPLEEN, KIDNEYS, AORTA, VERTEBRA = 1, 2, 3, 4, 5
LABEL_NAMES = {LIVER: "liver", SPLEEN: "spleen", KIDNEYS: "kidneys", AORTA: "aorta", VERTEBRA: "vertebra"}

_AIR, _LUNG, _GAS, _FAT = -1000.0, -800.0, -850.0, -95.0
_FLUID, _SKIN, _MUSCLE, _GUT, _DISC = 12.0, 20.0, 55.0, 60.0, 85.0
_SPONGE_BONE, _HARD_BONE = 300.0, 520.0
_NOISE_HU = 15.0
_BIAS_HU = 8.0
_SKIN_MM, _WALL_MM = 2.5, 11.0


def phantom(
    seed: int,
    shape: tuple[int, int, int] = (32, 160, 160),
    spacing_mm: tuple[float, float, float] = (6.0, 2.2, 2.2),
    tilt_degrees: float = 10.0,
    left_handed: bool = False,
) -> tuple[Volume, Volume]:
    """Scan one invented patient.

    The patient depends on `seed` alone, the other arguments say how it is scanned: the same anatomy lies at the same
    place in the patient's space on every grid.

    Args:
        seed: names the patient: shape, size, position, contrasts and noise.
        shape: voxels along the array axes (k, j, i).
        spacing_mm: distance of voxel centres along (k, j, i).
        tilt_degrees: how far the grid is turned from the patient's axes, about an axis that belongs to the patient.
        left_handed: store the same voxels with their slices from superior to inferior, which makes the determinant of
            the affine negative.

    Returns:
        The image, int16 in Hounsfield units, and the labels, uint8 with the values of `LABEL_NAMES`, on one grid.

    Raises:
        InputError: if shape or spacing make no grid.
    """
    anatomy, scanner, noise = np.random.default_rng(seed).spawn(3)
    geometry, centre_mm = _grid(shape, spacing_mm, tilt_degrees, scanner)
    canvas = _blank(geometry, centre_mm, anatomy)
    _draw(canvas, anatomy)
    image = canvas.image + _disturbance(geometry.shape, noise)
    image = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    labels = canvas.labels
    if left_handed:
        order = ((0, 1, 2), (True, False, False))
        image, labels = (np.ascontiguousarray(reorder(array, *order)) for array in (image, labels))
        geometry = geometry.reordered(*order)
    return Volume(image, geometry, Kind.INTENSITY), Volume(labels, geometry, Kind.LABELS)


@dataclass(frozen=True, eq=False)
class _Canvas:
    """What has been painted so far, and for every voxel (k, j, i) where it lies in the patient (mm, RAS)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    image: np.ndarray
    labels: np.ndarray
    bounds: np.ndarray  # a field: nothing is painted where it is positive

    def inside(self, bounds: np.ndarray) -> "_Canvas":
        """The same canvas, on which nothing crosses the rim of the field `bounds`."""
        return _Canvas(self.x, self.y, self.z, self.image, self.labels, bounds)

    def around(self, centre: tuple[float, float, float], reach: tuple[float, float, float]) -> "_Canvas":
        """The part of the canvas, as views, that holds everything within `reach` (mm) of `centre` and a margin."""
        # Every fourth voxel is enough to find the window, as it is widened by as many on all sides.
        coarse = (slice(None), slice(None, None, 4), slice(None, None, 4))
        near = np.ones(self.x[coarse].shape, dtype=bool)
        for axis, middle, distance in zip((self.x, self.y, self.z), centre, reach, strict=True):
            near &= np.abs(axis[coarse] - middle) < distance * 1.2 + 10
        window = []
        for axis, step in enumerate((1, 4, 4)):
            hit = np.flatnonzero(near.any(axis=tuple(other for other in range(3) if other != axis))) * step
            window.append(slice(max(hit[0] - step, 0), hit[-1] + step + 1) if hit.size else slice(0, 0))
        arrays = (self.x, self.y, self.z, self.image, self.labels, self.bounds)
        return _Canvas(*(array[tuple(window)] for array in arrays))

    def paint(self, field: np.ndarray, hounsfield: float, label: int | None = None) -> None:
        """Cover what lies inside `field`; where it fills half a voxel, `label` (0: none) replaces the label there."""
        if field.size == 0:
            return
        field = np.maximum(field, self.bounds)
        slopes = [np.gradient(field, axis=axis) for axis in range(3) if field.shape[axis] > 1]
        steepness = np.sqrt(sum(slope * slope for slope in slopes)) + np.float32(1e-6)
        filled = np.clip(0.5 - field / steepness, 0, 1)
        self.image[...] += filled * (np.float32(hounsfield) - self.image)
        if label is not None:
            self.labels[filled > 0.5] = label

    def ellipsoid(
        self, centre: tuple[float, float, float], radii: tuple[float, float, float], lean: tuple[float, float] = (0, 0)
    ) -> np.ndarray:
        """Field of an ellipsoid, in radii; `lean` moves it in x and y by so many mm per mm upward."""
        up = self.z - np.float32(centre[2])
        across = self.x - np.float32(centre[0]) - np.float32(lean[0]) * up
        forward = self.y - np.float32(centre[1]) - np.float32(lean[1]) * up
        a, b, c = (np.float32(1 / radius) for radius in radii)
        return np.sqrt((across * a) ** 2 + (forward * b) ** 2 + (up * c) ** 2) - np.float32(1)

    def rod(self, start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
        """Field, in mm, of a straight rod with round ends from `start` to `end` (x, y, z)."""
        start, along = np.asarray(start, np.float32), np.asarray(end, np.float32) - np.asarray(start, np.float32)
        offset = (self.x - start[0], self.y - start[1], self.z - start[2])
        reached = sum(part * step for part, step in zip(offset, along, strict=True)) / np.float32(along @ along)
        np.clip(reached, 0, 1, out=reached)
        squares = ((part - reached * step) ** 2 for part, step in zip(offset, along, strict=True))
        return np.sqrt(sum(squares)) - np.float32(radius)

    def waves(self, rng: np.random.Generator, length_mm: float) -> np.ndarray:
        """A smooth field about 0, mostly within 1, whose hills are about `length_mm` apart."""
        directions = rng.normal(size=(3, 3))
        directions *= 2 * np.pi / length_mm / np.linalg.norm(directions, axis=1, keepdims=True)
        total = np.zeros_like(self.x)
        for (u, v, w), phase in zip(directions.astype(np.float32), rng.uniform(0, 2 * np.pi, 3), strict=True):
            total += np.sin(u * self.x + v * self.y + w * self.z + np.float32(phase))
        return total * np.float32(0.5)


def _grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    tilt_degrees: float,
    rng: np.random.Generator,
) -> tuple[Geometry, np.ndarray]:
    """The scan's grid, and the patient's middle (RAS mm), which lies within a centimetre of the middle of the grid."""
    axis = rng.normal(size=3)
    place_mm, offset_mm = rng.uniform(-150, 150, 3), rng.uniform(-8, 8, 3)
    # Stored as scanners do: columns to the patient's left, rows to the back, slices upward.
    steps = _rotation(axis, np.deg2rad(tilt_degrees)) @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(spacing_mm[::-1])
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = place_mm - steps @ ((np.array(shape[::-1]) - 1) / 2)
    return Geometry(shape, affine), place_mm + offset_mm


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula: (3, 3) rotation by `angle` (radians) about `axis` (3,) of any length."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _blank(geometry: Geometry, centre_mm: np.ndarray, rng: np.random.Generator) -> _Canvas:
    """Nothing but air; the coordinates are bent and stretched, so that every patient is built differently."""
    # The whole grid as a sum of three lines, in place of a product with an affine for each of its voxels.
    origin = geometry.affine[:3, 3] - centre_mm
    lines = [geometry.affine[:3, 2 - axis, None] * np.arange(geometry.shape[axis]) for axis in range(3)]
    stretch = rng.uniform(0.93, 1.07, 3) * rng.uniform(0.96, 1.03)
    straight = []
    for n in range(3):
        k, j, i = (line[n] for line in lines)
        position = origin[n] + k[:, None, None] + j[None, :, None] + i[None, None, :]
        straight.append((position / stretch[n]).astype(np.float32))
    image = np.full(geometry.shape, _AIR, dtype=np.float32)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    everywhere = np.full(geometry.shape, -np.inf, dtype=np.float32)
    canvas = _Canvas(*straight, image, labels, everywhere)
    bent = [position + np.float32(2.5) * canvas.waves(rng, 150) for position in straight]
    return _Canvas(*bent, image, labels, everywhere)


def _disturbance(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Noise that neighbours in a slice share a little, and a shading over the whole volume; HU."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    for axis in (1, 2):
        noise = noise + np.float32(0.45) * np.roll(noise, 1, axis)
    noise *= np.float32(_NOISE_HU / (1 + 0.45**2))
    for axis, size in enumerate(shape):
        ramp = np.linspace(0, np.pi, size, dtype=np.float32)
        shading = np.sin(ramp * np.float32(rng.uniform(0.5, 1.5)) + np.float32(rng.uniform(0, 2 * np.pi)))
        noise += np.expand_dims(np.float32(_BIAS_HU / 2) * shading, tuple(n for n in range(3) if n != axis))
    return noise


def _draw(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paint the whole patient, from the skin inward; what is painted later lies in front."""
    # One stream per part: what one part draws at random never shifts the others.
    parts = rng.spawn(9)
    cavity = _torso(canvas, parts[0])
    belly = canvas.inside(cavity + 3)
    _bowel(belly, parts[1])
    _colon(belly, parts[2])
    chest = _lungs(canvas, cavity, parts[3])
    below = canvas.inside(np.maximum(cavity + 1, np.float32(1) - chest))
    _stomach_and_spleen(below, parts[4])
    _liver(below, parts[5])
    _kidneys(canvas, parts[6])
    _spine(canvas, parts[7])
    _vessels(canvas, parts[8])


def _torso(canvas: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """Skin, fat, wall, ribs and the muscles of the back; returns the field (mm) of the cavity they enclose."""
    x, y, z = canvas.x, canvas.y, canvas.z
    fat_mm = rng.uniform(9, 22)
    half_width = 148 + 0.03 * z
    # The back is flatter than the belly; both halves meet at y = 0, where the exponent does not matter.
    ends = np.abs(x / half_width), np.abs(y) / np.where(y > 0, np.float32(106), np.float32(96))
    power = np.where(y > 0, 2.2, 2.7).astype(np.float32)
    rho = (ends[0] ** power + ends[1] ** power + 1e-6) ** (1 / power)
    radius = np.sqrt(x * x + y * y) + np.float32(1e-3)
    depth = radius / rho - radius
    # More fat at flanks and back than along the midline of the belly.
    fat = (fat_mm * (1 + 0.35 * np.abs(x) / radius - 0.25 * np.clip(y / radius, 0, 1))).astype(np.float32)
    cavity = fat + np.float32(_WALL_MM) - depth
    canvas.paint(-depth, _SKIN)
    canvas.paint(np.float32(_SKIN_MM) - depth, _FAT - 8)
    canvas.paint(fat - depth, _MUSCLE)
    canvas.paint(cavity, _FAT)
    _ribs(canvas, cavity, rng)
    back = _MUSCLE + rng.uniform(-6, 6)
    for side in (-1, 1):
        canvas.paint(canvas.ellipsoid((side * 31, -72, -20), (27, 16, 400)), back)
        psoas = canvas.around((side * 37, -42, -90), (30, 30, 120))
        psoas.paint(psoas.ellipsoid((side * 37, -42, -110), (16, 18, 110), (-side * 0.08, 0)), back)
    return cavity


def _ribs(canvas: _Canvas, cavity: np.ndarray, rng: np.random.Generator) -> None:
    """Bows within the wall that fall toward the front, down to the margin of the rib cage."""
    period, start = rng.uniform(27, 31), rng.uniform(0, 27)
    height = canvas.z + 0.35 * canvas.y
    to_rib = (height + np.float32(start)) % np.float32(period) - np.float32(period / 2)
    rib = np.sqrt(((cavity - 4.5) / 3.6) ** 2 + (to_rib / 5.5) ** 2) - 1
    margin = (np.float32(-35) - height + 0.6 * canvas.y) / 6
    spared = (np.float32(40) - np.abs(canvas.x)) / 6
    rib = np.maximum(rib, np.maximum(margin, spared))
    canvas.paint(rib, _HARD_BONE - 60)
    canvas.paint(rib + np.float32(0.5), _SPONGE_BONE - 120)


def _lungs(canvas: _Canvas, cavity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Both lung bases with the heart between them; returns the field (mm) of everything above the diaphragm."""
    x, y, z = canvas.x, canvas.y, canvas.z
    right_mm = rng.uniform(64, 76)
    left_mm = right_mm - rng.uniform(4, 12)
    domes = [
        np.float32(top) - 38 * ((x - middle) / 62) ** 2 - 34 * ((y - 8) / 70) ** 2
        for middle, top in ((58, right_mm), (-62, left_mm))
    ]
    above = np.float32(12) * np.logaddexp(domes[0] / 12, domes[1] / 12) - z
    above = (above - 3 * canvas.waves(rng, 90)).astype(np.float32)
    chest = np.maximum(cavity + 2, above)
    canvas.paint(chest, _MUSCLE)
    canvas.paint(chest + 3, _FAT)
    heart = canvas.ellipsoid((-18, 44, 100), (64, 46, 50), (-0.3, 0)) + np.float32(0.05) * canvas.waves(rng, 60)
    middle = np.minimum(heart - np.float32(0.1), canvas.ellipsoid((0, -34, 60), (33, 52, 400)))
    middle = np.minimum(middle, np.sqrt((x / 14) ** 2 + ((y - 84) / 50) ** 2) - 1)
    canvas.paint(np.maximum(chest + 3, -30 * middle), _LUNG + rng.uniform(-40, 40))
    chamber = canvas.inside(chest + 4)
    chamber.paint(heart, _MUSCLE + 30)
    chamber.paint(heart + np.float32(0.22), 150 + rng.uniform(-20, 30))
    return above


def _bowel(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Loops of the small bowel in the lower half, filled with fluid, contrast or gas; nothing of it is labelled."""
    count = 64
    centres = rng.uniform((-80, -12, -125), (74, 78, 2), size=(count, 3))
    turns = rng.uniform(-0.9, 0.9, size=(count, 2))
    radii = rng.uniform((11, 10, 14), (20, 15, 26), size=(count, 3))
    fillings = rng.choice([_FLUID, 35.0, 70.0, 190.0, _GAS], size=count, p=[0.3, 0.35, 0.2, 0.07, 0.08])
    for centre, turn, radius, filling in zip(centres, turns, radii, fillings, strict=True):
        part = canvas.around(tuple(centre), tuple(radius + np.array([26, 26, 0])))
        loop = part.ellipsoid(tuple(centre), tuple(radius), tuple(turn))
        part.paint(loop, _GUT + 20)
        part.paint(loop + np.float32(0.22), filling)


def _colon(canvas: _Canvas, rng: np.random.Generator) -> None:
    """The large bowel along both flanks and across, with bulges, gas in front and stool behind."""
    frame = np.array([[92, -8, -130], [96, 2, -42], [52, 62, -30], [-30, 74, -36], [-88, 22, -2], [-100, -22, -130]])
    frame = frame + rng.uniform(-6, 6, frame.shape)
    for start, end in pairwise(frame):
        radius = rng.uniform(17, 22)
        part = canvas.around(tuple((start + end) / 2), tuple(np.abs(end - start) / 2 + radius + 4))
        tube = part.rod(start, end, radius) + np.float32(3) * part.waves(rng, 34)
        part.paint(tube, _GUT)
        stool = rng.uniform(-20, 40)
        part.paint(tube + np.float32(2.5), stool)
        lumps = part.waves(rng, 13) * np.float32(5)
        part.paint(np.maximum(tube + 4, np.float32(4) - lumps), -300)
        surface = np.float32((start[1] + end[1]) / 2 + rng.uniform(0, 0.6) * radius) - part.y
        part.paint(np.maximum(tube + 2.5, surface), _GAS)


def _stomach_and_spleen(canvas: _Canvas, rng: np.random.Generator) -> None:
    """The stomach with its bubble of gas, and the spleen, which it dents."""
    dx, dy, dz = rng.uniform(-7, 7, 3)
    size = rng.uniform(0.85, 1.15)
    centre = (-52 + dx, 34 + dy, 30 + dz)
    stomach = canvas.ellipsoid(centre, (44 * size, 30 * size, 48), (0.5, 0.25))
    stomach += np.float32(0.1) * canvas.waves(rng, 70)
    spleen_centre = (-94 + dx, -34 + dy * 0.6, 22 + dz)
    spleen = canvas.ellipsoid(spleen_centre, (38 * size, 54 / size, 58 * rng.uniform(0.85, 1.15)), (-0.1, -0.25))
    spleen += np.float32(0.09) * canvas.waves(rng, 60)
    hollow = canvas.ellipsoid((spleen_centre[0] + 48, spleen_centre[1] + 18, spleen_centre[2]), (38, 48, 100))
    canvas.paint(np.maximum(spleen, -hollow), 110 + rng.uniform(-8, 8), SPLEEN)
    stomach = np.maximum(stomach, np.float32(0.12) - spleen)
    canvas.paint(stomach, _GUT + 20)
    canvas.paint(stomach + np.float32(0.14), rng.choice([_FLUID, 30.0, 120.0]))
    level = np.float32(centre[1] + rng.uniform(4, 18)) - canvas.y
    canvas.paint(np.maximum(stomach + np.float32(0.14), level), _GAS)


def _liver(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Right and left lobe in one smooth piece, with the vessels in it and the gall bladder below."""
    dx, dy, dz = rng.uniform(-6, 6, 3)
    tall, wide = rng.uniform(0.85, 1.15), rng.uniform(0.92, 1.1)
    right = canvas.ellipsoid((76 + dx, -2 + dy, 6 + dz), (66 * wide, 82, 88 * tall), (-0.12, 0))
    left = canvas.ellipsoid((2 + dx, 46 + dy, 34 + dz), (66 / wide, 34, 38 * tall), (0.3, 0))
    liver = -np.logaddexp(-right * 7, -left * 7).astype(np.float32) / 7 + np.float32(0.07) * canvas.waves(rng, 75)
    # The lower right of the body presses on it: kidney, colon and bowel lie in the hollow.
    hollow = canvas.ellipsoid((26, -22, -62), (52, 62, 78))
    liver = np.maximum(liver, -hollow * 0.8)
    blood = rng.uniform(135, 165)
    canvas.paint(liver, 100 + rng.uniform(-10, 12), LIVER)
    branches = canvas.inside(np.maximum(canvas.bounds, liver + np.float32(0.06)))
    root = np.array([30 + dx, -4, 18 + dz])
    for end in ((110, 20, 30), (96, -50, 14), (80, 40, -10), (60, 8, 62), (20, 56, 40), (-22, 54, 48)):
        tip = np.array(end) + rng.uniform(-12, 12, 3)
        middle = (root + tip) / 2 + rng.uniform(-9, 9, 3)
        for start, stop, radius in ((root, middle, 5.0), (middle, tip, 3.2)):
            part = branches.around(tuple((start + stop) / 2), tuple(np.abs(stop - start) / 2 + 8))
            part.paint(part.rod(start, stop, radius), blood)
    bladder = (44 + dx, 42 + dy, -26 + dz)
    part = canvas.around(bladder, (26, 26, 40))
    part.paint(part.ellipsoid(bladder, (14, 15, 27), (0, -0.3)), _FLUID, 0)


def _kidneys(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Two beans of bright cortex around darker pyramids, in a bed of fat, open toward the spine."""
    cortex = rng.uniform(165, 190)
    for side in (-1, 1):
        dx, dy, dz = rng.uniform(-5, 5, 3)
        centre = (side * (64 + dx), -38 + dy, -22 - 8 * side + dz)
        size = rng.uniform(0.88, 1.12)
        part = canvas.around(centre, (60, 50, 66))
        bean = part.ellipsoid(centre, (26 * size, 29 * size, 54 * size), (-side * 0.22, -0.12))
        bean += np.float32(0.06) * part.waves(rng, 45)
        hilum = part.ellipsoid((centre[0] - side * 23, centre[1] + 9, centre[2]), (19, 13, 23), (-side * 0.22, -0.12))
        part.paint(bean - np.float32(0.22), _FAT, 0)
        part.paint(np.maximum(bean, -hilum), cortex, KIDNEYS)
        pyramids = np.maximum(bean + np.float32(0.27), np.float32(0.3) - hilum)
        part.paint(np.maximum(pyramids, part.waves(rng, 22)), cortex - 45)


def _spine_line(z: np.ndarray) -> np.ndarray:
    """How far back the middle of the vertebral bodies lies at the height `z` (mm): the curve of the lower back."""
    return np.float32(-43) + np.float32(6) * np.cos((z + np.float32(60)) / np.float32(55))


def _spine(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Vertebrae of a hard shell around sponge, their arches and spines, with discs and the spinal canal between."""
    size, period, start = rng.uniform(0.92, 1.12), rng.uniform(31, 36), rng.uniform(0, 30)
    column = canvas.around((0, -60, 0), (50, 62, 400))
    x = column.x / np.float32(size)
    y = (column.y - _spine_line(column.z)) / np.float32(size)
    height = (column.z + 0.1 * y + np.float32(start)) % np.float32(period) - np.float32(period / 2)
    tall = period / 2 - 4
    waist = np.float32(2.2) * np.cos(height / np.float32(tall) * np.float32(np.pi / 2))
    body = np.sqrt(x**2 * 0.62 + y**2 + 1) + waist - 17.5
    column.paint(body + 2, _DISC, 0)
    vertebra = np.maximum(body, np.abs(height) - np.float32(tall))
    canal = np.sqrt((x * 0.85) ** 2 + (y + 26) ** 2 + 0.01) - 8
    low = (height + 4) / 14
    arch = np.maximum(canal - 6, np.abs(height + 2) - 11)
    thorn = 8 * (np.sqrt((x / 4.2) ** 2 + ((y + 44 + 0.3 * height) / 16) ** 2 + low**2) - 1)
    wings = 8 * (np.sqrt(((np.abs(x) - 24) / 17) ** 2 + ((y + 22) / 5) ** 2 + ((height - 3) / 8) ** 2) - 1)
    bone = np.minimum(np.minimum(vertebra, arch), np.minimum(thorn, wings))
    column.paint(bone, _HARD_BONE, VERTEBRA)
    column.paint(bone + np.float32(2.6), _SPONGE_BONE + rng.uniform(-60, 60))
    column.paint(canal, _FLUID + 15, 0)


def _vessels(canvas: _Canvas, rng: np.random.Generator) -> None:
    """The aorta in front of the spine, a little to the left, and the unlabelled vena cava to the right of it."""
    swing, phase = rng.uniform(2, 7), rng.uniform(0, 2 * np.pi)
    column = canvas.around((4, -14, 0), (60, 42, 400))
    bend = np.float32(swing) * np.sin(column.z / np.float32(48) + np.float32(phase))
    front = _spine_line(column.z) + 29
    cava = np.sqrt(((column.x - 20 - 0.5 * bend) / 1.25) ** 2 + (column.y - front - 3) ** 2) - rng.uniform(8.5, 11)
    column.paint(cava, rng.uniform(105, 135), 0)
    radius = np.float32(rng.uniform(9.5, 13)) + np.float32(0.015) * column.z
    aorta = np.sqrt((column.x + 9 - bend) ** 2 + (column.y - front) ** 2) - radius
    column.paint(aorta - 1.2, _MUSCLE)
    column.paint(aorta, 200 + rng.uniform(-15, 40), AORTA)
