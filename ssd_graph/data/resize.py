"""Resize training images: the reference's antialiased bilinear filter, by the quickest code this processor has.

torch's kernel for AVX2 takes a fifth of Pillow's time and differs from it by at most two levels; without AVX2
torch is slower than Pillow. Evaluation never comes here: see decode.preprocess.
"""

import numpy as np
import torch
from PIL import Image

from ssd_graph.config import IMAGE_SIZE
from ssd_graph.data.decode import preprocess

RESIZER = "torch" if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else "Pillow"
"""What resizes on this machine."""

_SIZE = (IMAGE_SIZE, IMAGE_SIZE)
# The operation itself and not functional.interpolate, which cannot write where it is told: allocating and copying
# the result took twice as long as the arithmetic.
_RESIZE = torch.ops.aten._upsample_bilinear2d_aa.out


def resize_into(pixels: np.ndarray, out: np.ndarray) -> None:
    """Resize uint8 RGB [h, w, 3], a view of any strides, into contiguous uint8 [300, 300, 3]."""
    pixels = pixels if pixels.flags.writeable else pixels.copy()  # torch warns of arrays that it could not write
    if RESIZER == "Pillow":
        out[:] = preprocess(Image.fromarray(pixels))
        return
    source = _channels_first(pixels)
    if len(pixels) > IMAGE_SIZE:
        # Rows first: the kernel begins with the columns, which take it much longer, and then there are fewer.
        rows = torch.empty(IMAGE_SIZE, pixels.shape[1], 3, dtype=torch.uint8).permute(2, 0, 1).unsqueeze(0)
        source = _RESIZE(source, rows.shape[2:], False, out=rows)
    _RESIZE(source, _SIZE, False, out=_channels_first(out))


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    """[h, w, 3] as [1, 3, h, w] without a copy."""
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
