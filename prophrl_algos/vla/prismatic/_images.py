"""Prepare images as OpenVLA's evaluation does, without TensorFlow: JPEG, Lanczos, a centre crop, all rounded alike.

The order and every rounding are those of `resize_image_for_policy` and `center_crop_image` of OpenVLA-OFT. The filters
are those of TensorFlow's `ScaleAndTranslate` and `crop_and_resize` by their source; they have not been compared with
TensorFlow itself.
"""

import io
import math

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor


def prepared(frames: UInt8[np.ndarray, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Return images, mirrored as in the training, as the vision backbones were trained to see them."""
    return centre_crop(torch.from_numpy(np.stack([lanczos(jpeg(frame), size) for frame in frames])))


def jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image after a round trip through JPEG, as the demonstrations were stored."""
    file = io.BytesIO()
    # tf.image.encode_jpeg: quality 95, and colours at half resolution.
    Image.fromarray(frame).save(file, "JPEG", quality=95, subsampling="4:2:0")
    return np.array(Image.open(file).convert("RGB"))


def lanczos(frame: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Resize to size x size with a Lanczos filter of radius 3, which is widened where the image shrinks."""
    # Pillow rounds between rows and columns unless its numbers are floats, which it takes channel by channel.
    channels = [Image.fromarray(channel) for channel in np.moveaxis(frame, 2, 0).astype(np.float32)]
    resized = np.stack([np.array(each.resize((size, size), Image.Resampling.LANCZOS)) for each in channels], -1)
    return resized.round().clip(0, 255).astype(np.uint8)


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
