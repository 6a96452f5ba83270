"""Prepare images as OpenVLA's evaluation does, without TensorFlow: JPEG, Lanczos, a centre crop, all rounded alike.

The order and every rounding are those of `resize_image_for_policy` and `center_crop_image` of OpenVLA-OFT. The filters
follow the source of TensorFlow's `ScaleAndTranslate` and `crop_and_resize`; they have not been compared with TensorFlow
itself.
"""

import io
import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

_LANCZOS_RADIUS = 3


def prepared(frames: UInt8[np.ndarray, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Return images, mirrored as in the training, as the vision backbones were trained to see them."""
    stored = torch.from_numpy(np.stack([jpeg(frame) for frame in frames]))
    return centre_crop(lanczos(stored, size))


def jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image after a round trip through JPEG, as the demonstrations were stored."""
    file = io.BytesIO()
    # tf.image.encode_jpeg: quality 95, and colours at half resolution.
    Image.fromarray(frame).save(file, "JPEG", quality=95, subsampling="4:2:0")
    return np.array(Image.open(file).convert("RGB"))


def lanczos(images: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Resize to size x size with a Lanczos filter of radius 3, which is widened where the image shrinks."""
    down, across = (lanczos_weights(length, size) for length in images.shape[1:3])
    resized = torch.einsum("sh,bhwc,tw->bstc", down, images.float(), across)
    return resized.round().clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=16)
def lanczos_weights(length: int, size: int) -> Float[Tensor, "s h"]:
    """Return the weight of each pixel of a line of `length` in each pixel of the new line."""
    scale = length / size
    wide = max(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(length, dtype=torch.float64) + 0.5 - centre[:, None]) / wide
    kernel = torch.sinc(distance) * torch.sinc(distance / _LANCZOS_RADIUS)
    kernel = torch.where(distance.abs() < _LANCZOS_RADIUS, kernel, 0.0)
    return (kernel / kernel.sum(1, keepdim=True)).float()


def centre_crop(images: UInt8[Tensor, "b s s 3"]) -> UInt8[Tensor, "b s s 3"]:
    """Return the middle nine tenths of the area at full size again, bilinear: the training took random ones."""
    size = images.shape[1]
    side = math.sqrt(0.9)
    # crop_and_resize: the corners of the box are the centres of the outermost new pixels.
    places = (1 - side) / 2 * (size - 1) + torch.arange(size, dtype=torch.float32) * side
    low = places.floor().long()
    high, fraction = places.ceil().long(), (places - low)
    pixels = images.float() * (1 / 255)
    rows = torch.lerp(pixels[:, low], pixels[:, high], fraction[:, None, None])
    crop = torch.lerp(rows[:, :, low], rows[:, :, high], fraction[:, None])
    # convert_image_dtype to uint8 multiplies by 255.5 and truncates.
    return (crop.clamp(0, 1) * 255.5).to(torch.uint8)
