"""Faces in one picture: where they are, 468 points of the mesh, the eyes, and blendshapes if a model has them.

BlazeFace proposes boxes; the mesh model says with its own output whether a face is there, which the detector alone
does not know. Points are in pixels of the picture; x to the right, y down, z away from the camera. A mesh of 478 points
has the irises; for one of 468 a model of the eyes finds them.

Axes: H, W rows and columns of a picture; F faces; 468 points of the mesh; 16 points around an eye, 5 of an iris.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.blendshapes import BLENDSHAPE_COLUMNS, READ_POINTS, checked_blendshapes
from conki_cli.data.extraction.decode import Picture
from conki_cli.data.extraction.face_models import BLENDSHAPES, DETECTOR, IRIS, MESH, FaceModels
from conki_cli.data.extraction.libraries import library
from conki_cli.system.errors import SettingsError, reason_of

Points = npt.NDArray[np.float64]

RIGHT_EYE, LEFT_EYE = (33, 133), (263, 362)
"""Outer and inner corner; right and left as the person has them."""
_MIN_SCORE = 0.5
_OVERLAP = 0.3  # of boxes that are one face
_MARGIN = 1.5  # side of the region that the mesh looks at, of the box's longer side
_EYE_MARGIN = 2.3
_EYE_CONTOUR = 16
_NUM_POINTS, _NUM_REFINED = 468, 478
_RIGHT_CONTOUR = (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)
_LEFT_CONTOUR = (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398)
_BORDER = 2  # pixels around a part of a picture, so that its edges are interpolated as in the whole


@dataclass(frozen=True)
class Region:
    """A turned square in a picture: centre and side in pixels, angle in radians, clockwise as seen."""

    x: float
    y: float
    side: float
    angle: float = 0.0
    mirrored: bool = False

    def points(self, unit: Points) -> Points:
        """Return points in the picture of points [..., 2 or 3] in the square, whose sides are 1."""
        cos, sin = self.side * math.cos(self.angle), self.side * math.sin(self.angle)
        flip = -1.0 if self.mirrored else 1.0
        moved = unit * self.side
        moved[..., :2] = (unit[..., :2] - 0.5) @ np.array([[flip * cos, flip * sin], [-sin, cos]]) + (self.x, self.y)
        return moved


@dataclass(frozen=True, eq=False)
class Face:
    """A face.

    Attributes:
        presence: from 0 to 1, whether it is one.
        points: of the mesh, [468, 3].
        contours, irises: of both eyes, the right one first, [2, 16, 2] and [2, 5, 2].
        blendshapes: [52]; None: there is no model of them.
    """

    presence: float
    points: Points
    contours: Points
    irises: Points
    blendshapes: Points | None = None

    @property
    def region(self) -> Region:
        """Where to look for it in the next picture."""
        low, high = self.points[:, :2].min(axis=0), self.points[:, :2].max(axis=0)
        right, left = self.points[RIGHT_EYE[0]], self.points[LEFT_EYE[0]]
        angle = float(np.arctan2(left[1] - right[1], left[0] - right[0]))
        x, y = (low + high) / 2
        return Region(float(x), float(y), float((high - low).max()) * _MARGIN, angle)

    @property
    def width(self) -> float:
        """Width in pixels, from cheek to cheek."""
        return float(np.linalg.norm(self.points[454, :2] - self.points[234, :2]))


class FaceReader:
    """The models, each with one thread, so that results do not depend on how many there are."""

    def __init__(self, models: FaceModels) -> None:
        self._detector = _Network(models, DETECTOR)
        self._mesh = _Network(models, MESH)
        is_refined = self._mesh.num_values == 3 * _NUM_REFINED
        if not is_refined and (IRIS not in models.files or BLENDSHAPES in models.files):
            raise SettingsError(
                f"{models.place} must hold a mesh of {_NUM_REFINED} points, found {self._mesh.num_values // 3}",
                advice="get it again",
            )
        self._iris = None if is_refined else _Network(models, IRIS, pictures=2)
        self._blendshapes = _Network(models, BLENDSHAPES) if BLENDSHAPES in models.files else None
        self._anchors = _anchors()

    def detect(self, picture: Picture) -> list[Region]:
        """Return where faces may be, the likeliest first."""
        height, width = picture.shape[:2]
        whole = Region(width / 2, height / 2, float(max(height, width)))
        given = sampled(picture, whole, self._detector.side) * np.float32(2.0) - np.float32(1.0)
        boxes, scores = self._detector.run(given[None])
        if boxes.shape[-1] == 1:
            boxes, scores = scores, boxes
        likely = 1.0 / (1.0 + np.exp(-np.clip(scores.reshape(-1), -80, 80)))
        rows = np.flatnonzero(likely >= _MIN_SCORE)
        found = boxes.reshape(-1, 16)[rows].astype(np.float64) / self._detector.side  # [F, 16]
        found[:, 0:2] += self._anchors[rows]
        found[:, 4:] += np.tile(self._anchors[rows], 6)
        kept = _distinct(found, likely[rows])
        return [_region_of(whole, box) for box in kept]

    def read(self, picture: Picture, region: Region) -> Face:
        """Read the face that should be in a region; `presence` says whether there is one."""
        side = self._mesh.side
        outputs = self._mesh.run(sampled(picture, region, side)[None])
        flat, flag = sorted((output.reshape(-1) for output in outputs), key=len, reverse=True)[:2]
        presence = 1.0 / (1.0 + math.exp(-min(max(float(flag[0]), -80.0), 80.0)))
        points = region.points(flat.reshape(-1, 3).astype(np.float64) / side)
        contours, irises = self._eyes(picture, points) if self._iris is not None else _eyes_in(points)
        shares = None
        if self._blendshapes is not None:
            (output,) = self._blendshapes.run(points[READ_POINTS, :2].astype(np.float32)[None])
            shares = checked_blendshapes(output)
        return Face(presence, points[:_NUM_POINTS], contours, irises, shares)

    def _eyes(self, picture: Picture, points: Points) -> tuple[Points, Points]:
        """Return contours [2, 16, 2] and irises [2, 5, 2] of the eyes.

        The model knows right eyes, so left ones are mirrored.
        """
        assert self._iris is not None
        side = self._iris.side
        regions = [_eye_region(points, corners) for corners in (RIGHT_EYE, LEFT_EYE)]
        given = np.empty((2, side, side, 3), dtype=np.float32)
        for place, region in enumerate(regions):
            given[place] = sampled(picture, region, side)
        outputs = (output.reshape(2, -1, 3).astype(np.float64) / side for output in self._iris.run(given))
        contours, irises = sorted(outputs, key=lambda output: output.shape[1], reverse=True)
        return (
            np.stack([region.points(part[:_EYE_CONTOUR, :2]) for region, part in zip(regions, contours, strict=True)]),
            np.stack([region.points(part[:, :2]) for region, part in zip(regions, irises, strict=True)]),
        )


def _eye_region(points: Points, corners: tuple[int, int]) -> Region:
    outer, inner = (points[corner, :2] for corner in corners)
    is_left = corners == LEFT_EYE
    x, y = (float(value) for value in (outer - inner if is_left else inner - outer))
    middle = (outer + inner) / 2
    side = max(math.hypot(x, y) * _EYE_MARGIN, 2.0)
    return Region(float(middle[0]), float(middle[1]), side, math.atan2(y, x), mirrored=is_left)


def _eyes_in(points: Points) -> tuple[Points, Points]:
    """Return contours [2, 16, 2] and irises [2, 5, 2] from a mesh of 478 points."""
    contours = np.stack([points[list(numbers), :2] for numbers in (_RIGHT_CONTOUR, _LEFT_CONTOUR)])
    return contours, points[_NUM_POINTS:, :2].reshape(2, 5, 2)


class _Network:
    """One model: takes pictures [n, S, S, 3] of numbers, or points [1, 146, 2], and gives its outputs."""

    def __init__(self, models: FaceModels, name: str, pictures: int = 1) -> None:
        interpreter = library("ai_edge_litert.interpreter").Interpreter
        try:
            self._model: Any = interpreter(model_content=models.read(name), num_threads=1)
            (given,) = self._model.get_input_details()
            shape = [int(size) for size in given["shape"]]
            self.side = shape[1]
            if shape != ([1, len(READ_POINTS), 2] if name == BLENDSHAPES else [1, self.side, self.side, 3]):
                raise ValueError(f"its input is {shape}")
            if pictures > 1:
                self._model.resize_tensor_input(given["index"], [pictures, *shape[1:]])
            self._model.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise SettingsError(
                f"{models.place / models.files[name]} must be MediaPipe's model of that name ({reason_of(error)})",
                advice="get it again",
            ) from error
        self._input = given["index"]
        outputs = self._model.get_output_details()
        self._outputs = [output["index"] for output in outputs]
        self.num_values = max(math.prod(int(size) for size in output["shape"]) for output in outputs)
        wanted = {MESH: (3 * _NUM_POINTS, 3 * _NUM_REFINED), BLENDSHAPES: (len(BLENDSHAPE_COLUMNS),)}
        if name in wanted and self.num_values not in wanted[name]:
            raise SettingsError(
                f"{models.place / models.files[name]} must give {' or '.join(map(str, wanted[name]))} numbers, "
                f"found {self.num_values}",
                advice="get it again",
            )

    def run(self, values: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        self._model.set_tensor(self._input, values)
        self._model.invoke()
        return [np.asarray(self._model.get_tensor(index)) for index in self._outputs]


def sampled(picture: Picture, region: Region, size: int) -> npt.NDArray[np.float32]:
    """Return a region of a picture as [size, size, 3] from 0 to 1, black beyond the picture's edges.

    A region that is much larger than `size` is averaged over blocks of pixels first; between pixels it is linear.
    """
    image = library("PIL.Image")
    block = max(1, int(region.side / size))
    step = region.side / size / block
    cos, sin, flip = step * math.cos(region.angle), step * math.sin(region.angle), -1.0 if region.mirrored else 1.0
    a, b, d, e = flip * cos, -sin, flip * sin, cos
    x, y = region.x / block, region.y / block
    left, right = _reach(x, size / 2 * (abs(a) + abs(b)), picture.shape[1], block)
    top, bottom = _reach(y, size / 2 * (abs(d) + abs(e)), picture.shape[0], block)
    if left >= right or top >= bottom:
        return np.zeros((size, size, 3), dtype=np.float32)
    part = image.fromarray(picture[top * block : bottom * block, left * block : right * block])
    if block > 1:
        part = part.reduce(block)
    c, f = x - left - (a + b) * size / 2, y - top - (d + e) * size / 2
    part = part.transform((size, size), image.Transform.AFFINE, (a, b, c, d, e, f), resample=image.Resampling.BILINEAR)
    values = np.frombuffer(part.tobytes(), dtype=np.uint8).reshape(size, size, 3)
    return np.divide(values, np.float32(255.0), dtype=np.float32)


def _reach(middle: float, half: float, length: int, block: int) -> tuple[int, int]:
    """Return from where to where a region reaches in a picture, in blocks, with a border around it."""
    most = -(-length // block)
    first, last = math.floor(middle - half) - _BORDER, math.ceil(middle + half) + _BORDER
    return min(max(first, 0), most), min(max(last, 0), most)


def _anchors() -> Points:
    """Return the centres that the detector's boxes are relative to: 2 a cell of 16 x 16, 6 a cell of 8 x 8."""
    centres = []
    for cells, count in ((16, 2), (8, 6)):
        steps = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, count, axis=0))
    return np.concatenate(centres)


def _distinct(boxes: Points, scores: npt.NDArray[np.float64]) -> list[Points]:
    """Average the boxes that overlap, weighted by their scores; the likeliest first."""
    order = list(np.argsort(-scores, kind="stable"))
    kept = []
    while order:
        first = order[0]
        same = [row for row in order if _overlap(boxes[first], boxes[row]) > _OVERLAP]
        weights = scores[same][:, None]
        kept.append((boxes[same] * weights).sum(axis=0) / weights.sum())
        order = [row for row in order if row not in same]
    return kept


def _overlap(one: Points, other: Points) -> float:
    low = np.maximum(one[:2] - one[2:4] / 2, other[:2] - other[2:4] / 2)
    high = np.minimum(one[:2] + one[2:4] / 2, other[:2] + other[2:4] / 2)
    common = float(np.prod(np.maximum(high - low, 0.0)))
    total = float(np.prod(one[2:4]) + np.prod(other[2:4])) - common
    return common / total if total > 0 else 1.0


def _region_of(whole: Region, box: Points) -> Region:
    """Return the region that the mesh looks at, from a box and its points of both eyes."""
    centre = whole.points(box[:2])
    right, left = whole.points(box[4:6]), whole.points(box[6:8])
    angle = float(np.arctan2(left[1] - right[1], left[0] - right[0]))
    side = float(max(box[2], box[3])) * whole.side * _MARGIN
    return Region(float(centre[0]), float(centre[1]), side, angle)
