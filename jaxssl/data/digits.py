"""scikit-learn's handwritten digits: real images inside an installed package, no download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jaxssl.data.images import ImageSet


def load_digits(*, size: int, channels: int = 1) -> ImageSet:
    """Load the 1,797 handwritten digits of 8 x 8 pixels, white on black, enlarged to a square.

    Pixel values 0-16 are scaled to 0-255, then enlarged once with Pillow's bilinear filter.

    Args:
      size: height and width in pixels, at least 1.
      channels: 1 (grey) or 3 (the same grey three times).

    Returns:
      An ImageSet with classes "0" to "9" and ids "digits/0000" to "digits/1796".

    Raises:
      ValueError: size below 1 or channels neither 1 nor 3.

    Reference:
      E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (test part).

    Example:
      >>> digits = load_digits(size=32)
      >>> len(digits), digits.shape, digits.ids[3], digits.class_names[digits.labels[3]]
      (1797, (32, 32, 1), 'digits/0003', '3')
    """
    if size < 1 or channels not in (1, 3):
        raise ValueError(f"digits need size >= 1 and channels 1 or 3, got {size=}, {channels=}")
    from sklearn.datasets import load_digits as read_digits  # seconds to import: only when asked

    source = read_digits()
    small = np.rint(source.images * (255 / 16)).astype(np.uint8)
    square, bilinear = (size, size), Image.Resampling.BILINEAR
    large = [np.asarray(Image.fromarray(image).resize(square, bilinear)) for image in small]
    pixels = np.repeat(np.stack(large)[..., None], channels, axis=-1)
    n = len(pixels)
    return ImageSet(
        ids=tuple(f"digits/{i:04d}" for i in range(n)),
        paths=("",) * n,
        labels=source.target.astype(np.int32),
        class_names=tuple(str(name) for name in source.target_names),
        load=pixels.__getitem__,
        groups=np.arange(n),
        shape=(size, size, channels),
    )
