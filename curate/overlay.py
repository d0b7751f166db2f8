"""Where a picture carries lettering: captions, watermarks and logos, opaque or faint, by a small convolutional network.

The network of 17,000 weights in `overlay_weights.npz` has seen no real caption or watermark: its examples are words,
numbers and signs drawn over photos that have none (`python -m benchmarks.lettering` makes the file). Two more networks
in the same file saw photos of half of the classes each: `benchmarks.artifacts` judges every photo of those classes by
the one that never saw its like.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import as_strided

from curate.foreground import ranked

SIDE = 512  # longer side of the picture, pixels
ENLARGED = 1.6  # at most; of 1 and 1.6: found watermarks with AUROC 0.85 and 0.88 on classes left out
_DILATIONS = (1, 2, 4)  # of the third to fifth layer; the first two halve the picture, the sixth is 1 x 1
_BLOCK = 16  # rows or columns of a blur made by one product of matrices

# Four rows of a 3 x 3 convolution from six rows by six products instead of twelve: F(4, 3) of Winograd's minimal
# filtering (Lavin & Gray, "Fast algorithms for convolutional neural networks", CVPR 2016), down the columns only.
_ROWS_IN = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_WEIGHTS_IN = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_ROWS_OUT = np.array(
    [
        [1, 1, 1, 1, 1, 0, 1],
        [0, 1, -1, 2, -2, 0, 1],
        [0, 1, 1, 4, 4, 0, 1],
        [0, 1, -1, 8, -8, 1, 1],
    ],
    np.float32,
)  # the seventh column is for the bias


class Network(NamedTuple):
    """A fully convolutional network, rectified between its layers.

    Attributes:
        fitted_on: the classes of the photos that its examples were drawn over.
        layers: of each layer the weights (outputs, inputs, k, k) and the biases (outputs,).
        products: of each layer, what `log_odds` multiplies by: of the first two (outputs, k * (k * inputs + 1)), of the
            next three (6, 3 * inputs, outputs), of the last (inputs,).
    """

    fitted_on: tuple[str, ...]
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    products: tuple[np.ndarray, ...]


def overlay_cues(rgb: np.ndarray) -> dict[str, float]:
    """How likely, how much and where there is lettering: the cues `letters_*` of a picture.

    Args:
        rgb: (h, w, 3) uint8, longer side `SIDE`, or as large as the picture is.
    """
    return letter_cues(letter_map(rgb, networks()["all"]))


@cache
def networks() -> dict[str, Network]:
    """The networks of `overlay_weights.npz`: `all`, and those that did not see some of the classes."""
    with (files("curate") / "overlay_weights.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    names = sorted({key.split(".")[0] for key in arrays})
    return {name: _network(arrays, name) for name in names}


def letter_map(rgb: np.ndarray, network: Network) -> np.ndarray:
    """Log-odds of lettering: (h, w, 3) uint8 -> float32, one value for every 4 x 4 pixels of the enlarged picture."""
    longer, shorter = max(rgb.shape[:2]), min(rgb.shape[:2])
    scale = max(min(ENLARGED, SIDE / longer), 32 / shorter)
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    grey = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=way)
    return log_odds(planes_of(grey), network)


def log_odds(planes: np.ndarray, network: Network) -> np.ndarray:
    """What the network makes of `planes_of` a picture: (2, h, w) -> (h / 4, w / 4), both rounded up, float32."""
    first, second = network.products[:2]
    rows = _rectified(_halved(planes.swapaxes(0, 1), first, 5))
    height, width = (-(-length // 2) for length in (len(rows), rows.shape[2]))
    pixels, inside = _padded(height, width, 1, len(second))
    _halved(rows, second, 3, out=inside[:, 0, :width])
    for layer, dilation in enumerate(_DILATIONS[:-1], start=2):
        blocks = _convolved(_rectified(pixels), network.products[layer], network.layers[layer][1], dilation)
        pixels, inside = _padded(height, width, 2 * dilation, len(network.layers[layer][1]))
        for top, block in blocks:
            made = _whole(block[: height - top, :, :-1])
            part = _whole(inside[top : top + len(made)]).reshape(len(made), 2, dilation, -1)
            part[:, 0], part[:, 1] = made[:, :, 0::2], made[:, :, 1::2]
        for beyond in range(width, 4 * -(-width // 4)):
            inside[:, beyond % (2 * dilation), beyond // (2 * dilation)] = 0
    (_, before), (_, last) = network.layers[-2:]
    blocks = _convolved(_rectified(pixels), network.products[-2], before, _DILATIONS[-1])
    logits = [_rectified(block) @ network.products[-1] for _, block in blocks]
    return np.concatenate(logits)[:height, :, :-1].swapaxes(1, 2).reshape(height, -1)[:, :width] + last


def letter_cues(logits: np.ndarray) -> dict[str, float]:
    """Cues of a map of `letter_map`: log-odds of its likeliest places, shares (0 to 1), logarithms of counts."""
    height, width = logits.shape
    smooth = cv2.blur(logits, (3, 3))
    probable = 1 / (1 + np.exp(-logits))
    strip = max(3, round(0.12 * height))
    third = max(1, height // 3)
    found = probable > 0.5
    grid = cv2.resize(found.astype(np.float32), (5, 5), interpolation=cv2.INTER_AREA) > 0.02
    boxes = cv2.connectedComponentsWithStats(found.view(np.uint8), ltype=cv2.CV_16U)[2][1:]
    boxes = boxes[boxes[:, cv2.CC_STAT_AREA] >= 4]
    wide, tall = boxes[:, cv2.CC_STAT_WIDTH], boxes[:, cv2.CC_STAT_HEIGHT]
    top = smooth.ravel()
    top = np.sort(np.partition(top, -160)[-160:] if len(top) > 160 else top)[::-1]
    cues = {
        **{f"letters_top_{count}": top[:count].mean() for count in (8, 24, 64, 160)},
        "letters_mean": np.log(probable.mean() + 1e-4),
        "letters_share": np.log(np.count_nonzero(found) / found.size + 1e-3),
        "letters_bottom": _highest(smooth[-strip:], 8),
        "letters_bottom_strip": _highest(smooth[-strip:], 40),
        "letters_upper": _highest(smooth[:strip], 8),
        "letters_centre": _highest(smooth[third:-third], 8),
        "letters_spread": grid.mean(),
        "letters_rows": grid.any(axis=1).mean(),
        "letters_lines": np.log1p((wide > 1.8 * tall).sum()),
        "letters_pieces": np.log1p(len(boxes)),
        "letters_longest": wide.max() / width if len(boxes) else 0.0,
        "letters_height": np.log1p(ranked(tall, 0.5)) if len(boxes) else 0.0,
    }
    return {name: float(value) for name, value in cues.items()}


def _network(arrays: dict[str, np.ndarray], name: str) -> Network:
    layers = tuple(
        (arrays[f"{name}.{i}.weight"].astype(np.float32), arrays[f"{name}.{i}.bias"].astype(np.float32))
        for i in range(6)
    )
    products = (
        *(_halving(*layer) for layer in layers[:2]),
        *(_minimal(weight) for weight, _ in layers[2:5]),
        layers[5][0].ravel(),
    )
    return Network(tuple(arrays[f"{name}.fitted_on"].tolist()), layers, products)


def _halving(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(outputs, inputs, k, k), (outputs,) -> (outputs, k * (k * inputs + 1)), as `_halved` takes them."""
    outputs, inputs, size, _ = weight.shape
    product = np.zeros((outputs, size, size * inputs + 1), np.float32)
    product[..., :-1] = weight.transpose(0, 2, 3, 1).reshape(outputs, size, -1)
    product[:, 0, -1] = bias
    return product.reshape(outputs, -1)


def _minimal(weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs, 3, 3) -> (6, 3 * inputs, outputs), as `_convolved` takes them."""
    product = np.einsum("ky,ocyx->kxco", _WEIGHTS_IN, weight)
    return np.ascontiguousarray(product.reshape(6, -1, len(weight)), np.float32)


def _highest(values: np.ndarray, count: int) -> float:
    """Mean of the `count` highest."""
    flat = values.ravel()
    return float(flat.mean() if len(flat) <= count else np.partition(flat, -count)[-count:].mean())


def planes_of(grey: np.ndarray) -> np.ndarray:
    """What the networks see: lightness, and detail in units of the local contrast: (h, w) uint8 -> (2, h, w)."""
    planes = np.empty((2, *grey.shape), np.float32)
    light, detail = planes
    np.multiply(grey, np.float32(1 / 255), out=light)
    np.subtract(light, _blurred(light, 4), out=detail)
    contrast: np.ndarray = np.asarray(cv2.sqrt(_blurred(detail * detail, 8)))
    contrast += 0.02
    contrast *= 2
    light -= 0.5
    detail /= contrast
    return planes


def _blurred(plane: np.ndarray, sigma: int) -> np.ndarray:
    """What `cv2.GaussianBlur` makes of (h, w) float32, in two thirds of the time, by products of matrices."""
    band = _band(sigma)
    span, reach, (height, width) = band.shape[1], 4 * sigma, plane.shape
    down, across = (-(-length // _BLOCK) for length in plane.shape)
    spare = (down * _BLOCK - height, across * _BLOCK - width)
    framed = cv2.copyMakeBorder(plane, reach, reach + spare[0], reach, reach + spare[1], cv2.BORDER_REFLECT_101)
    line = framed.strides[0]
    columns = (band @ as_strided(framed, (down, span, framed.shape[1]), (_BLOCK * line, line, 4))).reshape(
        down * _BLOCK, -1
    )
    blurred = np.empty((len(columns), across, _BLOCK), np.float32)
    windows = as_strided(columns, (across, len(columns), span), (4 * _BLOCK, line, 4))
    np.matmul(windows, band.T, out=blurred.swapaxes(0, 1))
    return blurred.reshape(len(columns), -1)[:height, :width]


@cache
def _band(sigma: int) -> np.ndarray:
    """(`_BLOCK`, `_BLOCK` + 8 sigma): in each row the kernel of a Gaussian blur, one place further."""
    kernel = cv2.getGaussianKernel(8 * sigma + 1, sigma, cv2.CV_32F).ravel()
    band = np.zeros((_BLOCK, _BLOCK + 8 * sigma), np.float32)
    for place, row in enumerate(band):
        row[place : place + len(kernel)] = kernel
    return band


def _rectified(stack: np.ndarray) -> np.ndarray:
    """(n, ...) float32, contiguous: 0 in place of what is negative, where it stands; five times as fast as numpy."""
    flat = stack.reshape(len(stack), -1)
    return cv2.threshold(flat, 0, 0, cv2.THRESH_TOZERO, dst=flat)[1].reshape(stack.shape)


def _whole(pixels: np.ndarray) -> np.ndarray:
    """A view (..., c) -> (...): pixels that are copied as one item each."""
    return pixels.view(f"V{pixels.itemsize * pixels.shape[-1]}")[..., 0]


def _halved(rows: np.ndarray, product: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Convolution of stride 2 with zeros beyond the frame.

    Args:
        rows: (h, inputs, w) float32.
        product: (outputs, size * (size * inputs + 1)) of `_halving`.
        size: of the kernel.
        out: (h / 2, w / 2, outputs) float32, filled and returned; without it (h / 2, outputs, w / 2) is.
    """
    height, inputs, width = rows.shape
    down, across, margin = -(-height // 2), -(-width // 2), size // 2
    taps = np.zeros((2 * down + size - 2, size * inputs + 1, across), np.float32)  # a row holds all that a window does
    taps[:, -1] = 1
    for place in range(size):
        skipped = (max(0, margin - place) + 1) // 2
        part = rows[:, :, 2 * skipped + place - margin :: 2][..., : across - skipped]
        channels = slice(place * inputs, (place + 1) * inputs)
        taps[margin : margin + height, channels, skipped : skipped + part.shape[2]] = part
    line, row, _ = taps.strides
    windows = as_strided(taps, (down, product.shape[1], across), (2 * line, row, 4))
    return product @ windows if out is None else np.matmul(windows.swapaxes(1, 2), product.T, out=out)


def _padded(height: int, width: int, dilation: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Zeros as `_convolved` takes them, and their part (h, dilation, w / dilation, c) inside the frame.

    Column x of the picture is column x // dilation of part x % dilation, so that what a dilated convolution looks at
    are neighbours; `width` is rounded up to a multiple of 4.
    """
    rows = 4 * dilation * -(-height // (4 * dilation)) + 2 * dilation
    pixels = np.zeros((rows, dilation, 4 * -(-width // 4) // dilation + 1, channels), np.float32)
    return pixels, pixels[dilation : dilation + height, :, 1:]


def _convolved(
    pixels: np.ndarray, product: np.ndarray, bias: np.ndarray, dilation: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Convolution by 3 x 3, in blocks of up to 32 rows, small enough for the processor's cache.

    Args:
        pixels: (rows, dilation, columns + 1, inputs) of `_padded`: the zeros before one line are those after another.
        product: (6, 3 * inputs, outputs) of `_minimal`.

    Yields:
        The block's first row, and (rows, dilation, columns + 1, outputs); the last column and the rows beyond the
        frame mean nothing.
    """
    _, phases, columns, inputs = pixels.shape
    strips, outputs = (len(pixels) // dilation - 2) // 4, len(bias)
    line = dilation * phases * columns  # pixels of as many rows as the taps are apart
    lines = pixels.reshape(-1, line * inputs)
    sixes = as_strided(lines, (strips, 6, line * inputs), (4 * lines.strides[0], *lines.strides))
    together = 8 // dilation
    most = -(-together * line // 3)
    seen = np.zeros((6, 3 * most + 2, inputs), np.float32)
    made = np.empty((7, 3 * most, outputs), np.float32)
    made[6] = bias
    for first in range(0, strips, together):
        count = min(together, strips - first)
        length, thirds = count * line, -(-count * line // 3)
        seen[:, length : 3 * thirds + 2] = 0
        np.matmul(_ROWS_IN, sixes[first : first + count], out=_by_strip(seen, count, line))
        for place in range(3):  # three neighbours are one row of a matrix; the next row is three pixels on
            windows = seen[:, place : place + 3 * thirds].reshape(6, thirds, 3 * inputs)
            np.matmul(windows, product, out=made[:6, place : 3 * thirds : 3])
        four = _ROWS_OUT @ _by_strip(made, count, line)
        yield 4 * dilation * first, four.reshape(-1, phases, columns, outputs)


def _by_strip(stack: np.ndarray, count: int, line: int) -> np.ndarray:
    """A view: (k, n, channels) -> (count, k, line * channels)."""
    return stack[:, : count * line].reshape(len(stack), count, -1).swapaxes(0, 1)
