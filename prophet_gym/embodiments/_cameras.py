"""From camera calibrations to the matrix that draws action frames: robot base (metres) to the unit image."""

import numpy as np
from jaxtyping import Float


def camera_matrix(
    intrinsics: Float[np.ndarray, "3 3"], camera_to_base: Float[np.ndarray, "4 4"], size: tuple[int, int]
) -> Float[np.ndarray, "3 4"]:
    """Return the matrix of `CameraSpec`.

    Args:
        intrinsics: Focal lengths and principal point in pixels (OpenCV: x right, y down, z forward), no distortion.
        camera_to_base: Pose of the camera in the robot's base or world frame, metres.
        size: Height and width in pixels of the images that the intrinsics are of; resized images keep the matrix.

    Raises:
        ValueError: `camera_to_base` is not a rigid motion.
    """
    rotation, position = camera_to_base[:3, :3], camera_to_base[:3, 3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or not np.allclose(camera_to_base[3], [0, 0, 0, 1]):
        raise ValueError(f"camera_to_base must be a rotation and a translation over (0, 0, 0, 1), got {camera_to_base}")
    height, width = size
    unit = np.diag([1 / width, 1 / height, 1.0]) @ intrinsics
    return unit @ np.column_stack([rotation.T, -rotation.T @ position])
