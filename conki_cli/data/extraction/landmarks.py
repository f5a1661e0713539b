"""Faces in one picture: where they are, 468 points of the mesh, and the eyes.

BlazeFace proposes boxes; the mesh model says with its own output whether a face is there, which the detector alone
does not know. Points are in pixels of the picture; x to the right, y down, z away from the camera.

Axes: H, W rows and columns of a picture; F faces; 468 points of the mesh; 16 points around an eye, 5 of an iris.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.decode import Picture
from conki_cli.data.extraction.face_models import DETECTOR, IRIS, MESH, FaceModels
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
        right = (unit[..., 0] - 0.5) * (-self.side if self.mirrored else self.side)
        down = (unit[..., 1] - 0.5) * self.side
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        moved = [self.x + right * cos - down * sin, self.y + right * sin + down * cos]
        return np.stack([*moved, *(unit[..., k] * self.side for k in range(2, unit.shape[-1]))], axis=-1)


@dataclass(frozen=True, eq=False)
class Face:
    """A face: `presence` from 0 to 1, points [468, 3], and of both eyes contour [2, 16, 2] and iris [2, 5, 2]."""

    presence: float
    points: Points
    contours: Points
    irises: Points

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
    """The three models, each with one thread, so that results do not depend on how many there are."""

    def __init__(self, models: FaceModels) -> None:
        self._detector = _Network(models, DETECTOR)
        self._mesh = _Network(models, MESH)
        self._iris = _Network(models, IRIS)
        self._anchors = _anchors()

    def detect(self, picture: Picture) -> list[Region]:
        """Return where faces may be, the likeliest first."""
        height, width = picture.shape[:2]
        whole = Region(width / 2, height / 2, float(max(height, width)))
        given = sampled(_image_of(picture), whole, self._detector.side) * np.float32(2.0) - np.float32(1.0)
        boxes, scores = self._detector.run(given)
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
        side, image = self._mesh.side, _image_of(picture)
        outputs = self._mesh.run(sampled(image, region, side))
        flat, flag = sorted((output.reshape(-1) for output in outputs), key=len, reverse=True)[:2]
        presence = float(1.0 / (1.0 + np.exp(-np.clip(flag[0], -80, 80))))
        points = region.points(flat.reshape(-1, 3).astype(np.float64) / side)
        eyes = [self._eye(image, points, corners) for corners in (RIGHT_EYE, LEFT_EYE)]
        return Face(presence, points, np.stack([eye[0] for eye in eyes]), np.stack([eye[1] for eye in eyes]))

    def _eye(self, picture: Any, points: Points, corners: tuple[int, int]) -> tuple[Points, Points]:
        """Return contour [16, 2] and iris [5, 2] of an eye; the model knows right eyes, so left ones are mirrored."""
        outer, inner = (points[corner, :2] for corner in corners)
        is_left = corners == LEFT_EYE
        along = outer - inner if is_left else inner - outer
        middle, angle = (outer + inner) / 2, float(np.arctan2(along[1], along[0]))
        side = max(float(np.linalg.norm(along)) * _EYE_MARGIN, 2.0)
        region = Region(float(middle[0]), float(middle[1]), side, angle, mirrored=is_left)
        outputs = self._iris.run(sampled(picture, region, self._iris.side))
        contour, iris = sorted((output.reshape(-1, 3) for output in outputs), key=len, reverse=True)
        both = (contour[:_EYE_CONTOUR, :2], iris[:, :2])
        first, second = (region.points(part.astype(np.float64) / self._iris.side) for part in both)
        return first, second


class _Network:
    """One model: takes a picture [S, S, 3] of numbers, gives its outputs."""

    def __init__(self, models: FaceModels, name: str) -> None:
        interpreter = library("ai_edge_litert.interpreter").Interpreter
        try:
            self._model: Any = interpreter(model_content=models.read(name), num_threads=1)
            self._model.allocate_tensors()
            (given,) = self._model.get_input_details()
            _, self.side, width, channels = (int(size) for size in given["shape"])
            if (self.side, 3) != (width, channels):
                raise ValueError(f"its input is {given['shape'].tolist()}")
        except (ValueError, RuntimeError) as error:
            raise SettingsError(
                f"{models.folder / name} must be MediaPipe's model of that name ({reason_of(error)}): get it again"
            ) from error
        self._input = given["index"]
        self._outputs = [output["index"] for output in self._model.get_output_details()]

    def run(self, values: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        self._model.set_tensor(self._input, values[None])
        self._model.invoke()
        return [np.asarray(self._model.get_tensor(index)) for index in self._outputs]


def _image_of(picture: Picture) -> Any:
    return library("PIL.Image").fromarray(picture)


def sampled(picture: Any, region: Region, size: int) -> npt.NDArray[np.float32]:
    """Return a region of a Pillow image as [size, size, 3] from 0 to 1, black beyond the picture's edges.

    A region that is much larger than `size` is averaged over blocks of pixels first; between pixels it is linear.
    """
    image = library("PIL.Image")
    block = max(1, int(region.side / size))
    if block > 1:
        picture = picture.reduce(block)
    origin, right, down = region.points(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) / block
    (a, d), (b, e), (c, f) = (right - origin) / size, (down - origin) / size, origin
    method = image.Transform.AFFINE
    part = picture.transform((size, size), method, (a, b, c, d, e, f), resample=image.Resampling.BILINEAR)
    return np.asarray(np.asarray(part, dtype=np.float32) / np.float32(255.0))


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
