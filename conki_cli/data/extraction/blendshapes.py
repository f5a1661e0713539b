"""The 52 blendshapes of MediaPipe's face model: how much a face does of each, from 0 to 1.

They are names of movements that animators use, and the nearest free thing to coded action units. The model reads 146
of the mesh's 478 points, as pixels; it shifts and scales them itself.
"""

import numpy as np
import numpy.typing as npt

from conki_cli.system.errors import SourceError

BLENDSHAPE_COLUMNS = (
    *("_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff"),
    *("cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight"),
    *("eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen"),
    *("jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight"),
    *("mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight"),
    *("mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft"),
    *("mouthUpperUpRight", "noseSneerLeft", "noseSneerRight"),
)
"""In the order in which the model gives them."""

READ_POINTS = np.array(
    [
        *(0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78),
        *(80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150),
        *(152, 153, 154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197),
        *(234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308),
        *(310, 311, 312, 314, 317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377),
        *(378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466),
        *(468, 469, 470, 471, 472, 473, 474, 475, 476, 477),
    ]
)
"""The points that it reads, [146]."""

_SLACK = 0.01  # beyond 0 and 1


def checked_blendshapes(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the output of the model as [52].

    Raises:
        SourceError: these are not shares, so the model is another one.
    """
    shares = values.reshape(-1).astype(np.float64)
    if not np.isfinite(shares).all() or shares.min() < -_SLACK or shares.max() > 1 + _SLACK:
        raise SourceError(
            f"face_blendshapes.tflite must give shares from 0 to 1, found {shares.min():.3g} to {shares.max():.3g}: "
            "it must be MediaPipe's model"
        )
    return np.clip(shares, 0.0, 1.0)
