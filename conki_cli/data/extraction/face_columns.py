"""The 31 columns of a face: distances named after action units, pose, place, gaze, and whether there is a face.

Where a model has them, 52 blendshapes come first.

They are geometry, not what a person would code: never FACET's or OpenFace's output. Points are turned into the head's
own axes first, so that a turned head does not look like a smile, and divided by the distance between the eyes. More of
a distance means more of the action.

Axes: 468 points of the mesh, as MediaPipe numbers them.
"""

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.blendshapes import BLENDSHAPE_COLUMNS
from conki_cli.data.extraction.face_models import BLENDSHAPES, FaceModels
from conki_cli.data.extraction.landmarks import LEFT_EYE, RIGHT_EYE, Face

FACE_VERSION = 2
"""Raised whenever a number that comes out changes."""
ACTIONS = (
    *("AU01_inner_brow", "AU02_outer_brow", "AU04_brows_together", "AU05_upper_lid", "AU06_cheek", "AU07_lower_lid"),
    *("AU09_nose_wrinkle", "AU10_upper_lip", "AU12_lip_corners_up", "AU14_dimple", "AU15_lip_corners_down"),
    *("AU17_chin", "AU18_pucker", "AU20_stretch", "AU22_lips_forward", "AU23_lips_thin", "AU25_lips_apart"),
    *("AU26_jaw_drop", "AU28_lips_inside", "AU45_blink"),
)
FACE_COLUMNS = (
    *ACTIONS,
    *("pitch", "yaw", "roll", "x", "y", "size"),
    *("gaze_right_x", "gaze_right_y", "gaze_left_x", "gaze_left_y"),
    "face_present",
)
MOUTH = FACE_COLUMNS.index("AU25_lips_apart") - len(FACE_COLUMNS)
SIZE = FACE_COLUMNS.index("size") - len(FACE_COLUMNS)
"""Places of columns, counted from the end of a row."""

Values = npt.NDArray[np.float64]
_BROWS = ((107, 70), (336, 300))  # inner, outer end
_CHEEKS, _NOSE_WINGS = (205, 425), (129, 358)
_CORNERS, _JAW = (61, 291), (172, 397)


def columns_with(models: FaceModels) -> tuple[str, ...]:
    """Return the names of the columns that models of faces give."""
    return (*BLENDSHAPE_COLUMNS, *FACE_COLUMNS) if BLENDSHAPES in models.files else FACE_COLUMNS


def head_axes(face: Face) -> Values:
    """Return the axes of a head as rows, [3, 3]: to its left (right in the picture), down, and away from the camera."""
    points = face.points
    across = points[LEFT_EYE[0]] - points[RIGHT_EYE[0]] + points[454] - points[234]
    down = points[152] - points[10]
    across = across / np.linalg.norm(across)
    down = down - (down @ across) * across
    down = down / np.linalg.norm(down)
    return np.stack([across, down, np.cross(across, down)])


def face_columns(face: Face, height: int, width: int) -> npt.NDArray[np.float32]:
    """Compute the columns of a face in a picture, [31], or [83] with blendshapes.

    Pitch, yaw and roll are degrees: up, to the left of the picture and clockwise are positive. x and y are the face's
    centre from 0 to 1, `size` is the distance between the eyes over the picture's height.
    """
    axes = head_axes(face)
    eye_distance = float(np.linalg.norm(face.points[LEFT_EYE[0]] - face.points[RIGHT_EYE[0]]))
    points = (face.points - face.points.mean(axis=0)) @ axes.T / max(eye_distance, 1e-6)  # [468, 3]
    openings = [_opening(contour) for contour in face.contours]
    region = face.region
    away = axes[2]  # of a head that faces the camera: (0, 0, 1)
    pose = (
        np.degrees(np.arctan2(away[1], np.hypot(away[0], away[2]))),
        np.degrees(np.arctan2(away[0], away[2])),
        np.degrees(np.arctan2(axes[0, 1], axes[0, 0])),
    )
    place = (region.x / width, region.y / height, eye_distance / height)
    gaze = [value for contour, iris in zip(face.contours, face.irises, strict=True) for value in _gaze(contour, iris)]
    shares = () if face.blendshapes is None else face.blendshapes
    row = (*shares, *_actions(points, float(np.mean(openings))), *pose, *place, *gaze, 1.0)
    return np.nan_to_num(np.array(row, dtype=np.float32))


def _actions(points: Values, opening: float) -> tuple[float, ...]:
    """Return the distances of `ACTIONS` from points in the head's axes, in eye distances."""

    def down(*numbers: int) -> float:
        return float(np.mean([points[number, 1] for number in numbers]))

    def gap(one: int, other: int) -> float:
        return float(np.linalg.norm(points[one] - points[other]))

    eyes, wings = down(*RIGHT_EYE, *LEFT_EYE), down(*_NOSE_WINGS)
    upper_lids, lower_lids = down(159, 386), down(145, 374)
    lips, corners = (down(13, 14)), down(*_CORNERS)
    mouth_width = gap(*_CORNERS)
    lip_height = gap(0, 13) + gap(14, 17)
    corner_depth = float(np.mean([points[number, 2] for number in _CORNERS]))
    return (
        eyes - down(*(inner for inner, _ in _BROWS)),
        eyes - down(*(outer for _, outer in _BROWS)),
        -gap(_BROWS[0][0], _BROWS[1][0]),
        eyes - upper_lids,
        -(down(*_CHEEKS) - lower_lids),
        eyes - lower_lids,
        -(wings - eyes),
        -(down(0) - wings),
        lips - corners,
        corner_depth - float(points[[13, 14], 2].mean()),
        corners - down(17),
        -(down(152) - down(17)),
        -mouth_width,
        mouth_width / max(gap(*_JAW), 1e-6),
        -float(points[[0, 17], 2].mean()),
        -lip_height,
        gap(13, 14),
        down(152) - eyes,
        -lip_height / max(mouth_width, 1e-6),
        -opening,
    )


def _opening(contour: Values) -> float:
    """Return how far an eye is open over its width, from its contour [16, 2]: lower lid first, then the upper one."""
    width = float(np.linalg.norm(contour[8] - contour[0]))
    heights = [np.linalg.norm(contour[upper] - contour[lower]) for upper, lower in ((11, 3), (12, 4), (13, 5))]
    return float(np.mean(heights)) / max(width, 1e-6)


def _gaze(contour: Values, iris: Values) -> tuple[float, float]:
    """Return where the iris stands between the corners of an eye: right and down in the picture, per eye width."""
    first, second = sorted((contour[0], contour[8]), key=lambda corner: float(corner[0]))
    along = second - first
    width = float(np.linalg.norm(along))
    right = along / max(width, 1e-6)
    offset = (iris[0] - (first + second) / 2) / max(width, 1e-6)
    return float(offset @ right), float(offset @ np.array([-right[1], right[0]]))
