"""Pictures as OpenVLA's evaluation prepares them, without TensorFlow: JPEG, Lanczos, a centre crop, all rounded alike.

The order and every rounding are those of `resize_image_for_policy` and `center_crop_image` of OpenVLA-OFT. The Lanczos
filter is that of TensorFlow's `ScaleAndTranslate` (and of Pillow), the crop that of its `crop_and_resize`; both were
written from its source and have not been compared with TensorFlow itself.
"""

import io
import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

JPEG_QUALITY = 95
"""Of `tf.image.encode_jpeg`, with colours at half resolution."""
LANCZOS_RADIUS = 3
CROP_AREA = 0.9
"""Share of the picture that is kept: policies were trained with random crops of this size."""


def prepared(frames: UInt8[np.ndarray, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Pictures of any size as the vision backbones are to see them.

    Args:
        frames: turned as the policy was trained.
        size: their new height and width, pixels.
    """
    stored = torch.from_numpy(np.stack([jpeg(frame) for frame in frames]))
    return centre_crop(lanczos(stored, size))


def jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture after a round trip through JPEG, as the demonstrations were stored."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return np.array(Image.open(file).convert("RGB"))


def lanczos(images: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Resized to size x size with a Lanczos filter of radius 3, which is widened where the picture shrinks."""
    down, across = (lanczos_weights(length, size) for length in images.shape[1:3])
    resized = torch.einsum("sh,bhwc,tw->bstc", down, images.float(), across)
    return resized.round().clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=16)
def lanczos_weights(length: int, size: int) -> Float[Tensor, "s h"]:
    """What each pixel of a line adds to each pixel of the new line."""
    scale = length / size
    wide = max(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(length, dtype=torch.float64) + 0.5 - centre[:, None]) / wide
    kernel = torch.sinc(distance) * torch.sinc(distance / LANCZOS_RADIUS)
    kernel = torch.where(distance.abs() < LANCZOS_RADIUS, kernel, 0.0)
    return (kernel / kernel.sum(1, keepdim=True)).float()


def centre_crop(images: UInt8[Tensor, "b s s 3"]) -> UInt8[Tensor, "b s s 3"]:
    """The middle `CROP_AREA` of a picture at its full size again, bilinear."""
    size = images.shape[1]
    side = math.sqrt(CROP_AREA)
    # crop_and_resize: the box's corners are the centres of the outermost new pixels
    places = (1 - side) / 2 * (size - 1) + torch.arange(size, dtype=torch.float32) * side
    low = places.floor().long()
    high, share = places.ceil().long(), (places - low)
    pixels = images.float() * (1 / 255)
    rows = torch.lerp(pixels[:, low], pixels[:, high], share[:, None, None])
    crop = torch.lerp(rows[:, :, low], rows[:, :, high], share[:, None])
    # convert_image_dtype to uint8: times 255.5, cut off
    return (crop.clamp(0, 1) * 255.5).to(torch.uint8)
