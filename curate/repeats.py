"""Whether a picture shows the same thing twice: an object beside its copy, a tiled texture, many of one product."""

import cv2
import numpy as np
from scipy import fft

SIDE = 128  # longer side of the picture that is measured, pixels
AWAY = 0.2  # of the height or the width: the least displacement
SHARED = 0.2  # of the detail that must meet other detail
_COARSE = 3.0  # standard deviation, pixels, of what is too wide to be detail
_STRONGEST = 30.0  # grey levels of detail that count, so that no single edge decides


def object_repeats(rgb: np.ndarray) -> float:
    """How well the picture's detail fits itself a fifth of the frame or more away, 0 to 1; near 1 where it is repeated.

    The highest normalised autocorrelation (Lewis, "Fast normalized cross-correlation", Vision Interface 1995) over the
    displacements at which a fifth of the detail meets a fifth of it.

    Args:
        rgb: (h, w, 3) uint8.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(grey.shape)
    size = (max(16, round(grey.shape[1] * scale)), max(16, round(grey.shape[0] * scale)))
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = np.clip(grey - cv2.GaussianBlur(grey, (0, 0), _COARSE), -_STRONGEST, _STRONGEST)
    height, width = detail.shape
    padded = (fft.next_fast_len(2 * height, real=True), fft.next_fast_len(2 * width, real=True))
    of_detail, of_energy, of_frame = (fft.rfft2(a, padded) for a in (detail, detail * detail, np.ones_like(detail)))
    product = fft.irfft2(of_detail * of_detail.conj(), padded)
    one = fft.irfft2(of_energy * of_frame.conj(), padded)
    other = np.roll(one[::-1, ::-1], (1, 1), axis=(0, 1))  # the same, displaced the other way
    down = np.abs(fft.fftfreq(padded[0]) * padded[0] / height)[:, None]
    right = np.abs(fft.fftfreq(padded[1]) * padded[1] / width)[None]
    enough = SHARED * float((detail * detail).sum()) + 1e-3
    compared = ((down >= AWAY) | (right >= AWAY)) & (one >= enough) & (other >= enough)
    likeness = product[compared] / np.sqrt(one[compared] * other[compared])
    return float(min(likeness.max(initial=0.0), 1.0))
