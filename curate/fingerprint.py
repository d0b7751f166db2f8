"""What a picture is searched by: perceptual hashes of the whole of it, and the words of its local features.

A word is 64 bits of one SIFT feature, so that what `curate.hamming` finds near is a feature that two pictures share:
whatever was cropped, turned, framed or put into a collage.
"""

from typing import NamedTuple

import cv2
import numpy as np

from curate.copies import Look, root
from curate.images import LOW_BAND

VERSION = 1  # goes up when the same pixels give other hashes or words
WORDS = 160  # features of a picture that are searched by: half of them the strongest, half the largest
ORIENTATIONS = 8  # four quarter turns, upright and mirrored
LEAST_CONTRAST = 2.0  # grey levels of standard deviation of a 32 x 32 picture: below there is nothing to hash
LENGTH = ORIENTATIONS + 1 + WORDS + WORDS // 2  # of a fingerprint as a row of uint64


class Fingerprint(NamedTuple):
    """What is kept of a picture for the search.

    Attributes:
        hashes: (8,) uint64, perceptual hashes of the picture turned by 0 to 3 quarters, then of the mirrored one;
            empty for a picture with too little contrast.
        words: (n,) uint64, n up to WORDS.
        places: (n, 4) uint8 of each word: x and y in pixels (SIDE is the longer side), angle in 256ths of a turn, and
            16 times the binary logarithm of its size in pixels.
    """

    hashes: np.ndarray
    words: np.ndarray
    places: np.ndarray


def fingerprint(look: Look) -> Fingerprint:
    """The hashes and words of a picture."""
    strong = np.argsort(-look.strengths, kind="stable")[: WORDS // 2]
    others = np.setdiff1d(np.arange(len(look.points)), strong)
    large = others[np.argsort(-look.sizes[others], kind="stable")[: WORDS - len(strong)]]
    chosen = np.append(strong, large)
    angle, size = look.angles * np.float32(256 / 360), 16 * np.log2(np.maximum(look.sizes, 1))
    facts = np.column_stack([look.points, angle % 256, size])[chosen]
    return Fingerprint(
        orientation_hashes(look.gray), words(look.descriptors[chosen]), facts.clip(0, 255).astype(np.uint8)
    )


def words(descriptors: np.ndarray) -> np.ndarray:
    """(n, 128) SIFT descriptors -> (n,) uint64: the signs of their 64 lowest frequencies but the constant one.

    Frequencies of the cosine transform over the 4 x 4 cells and of the Fourier transform over the 8 directions. In a
    mirror each of them keeps or changes its sign: the words of a mirrored picture are its words with the bits of
    MIRROR turned over.
    """
    return np.packbits(root(descriptors) @ _FREQUENCIES > 0, axis=1).view(">u8").ravel().astype(np.uint64)


def orientation_hashes(gray: np.ndarray) -> np.ndarray:
    """The perceptual hashes of (h, w) uint8 in its eight orientations, (8,) uint64; none of a flat picture.

    The bits are those of imagehash.phash (DCT of 32 x 32, 8 x 8 lowest frequencies, above the median), in its order.
    Turning a picture transposes its frequencies and changes the signs of odd rows or columns.
    """
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
    if small.std() < LEAST_CONTRAST:
        return np.zeros(0, np.uint64)
    low = np.round(LOW_BAND @ small @ LOW_BAND.T, 6)
    upright = [low, low.T * _ODD, low * _ODD * _ODD.T, low.T * _ODD.T]  # turned clockwise by 0 to 3 quarters
    mirror = low * _ODD
    turned = [mirror, mirror.T * _ODD, mirror * _ODD * _ODD.T, mirror.T * _ODD.T]
    flat = np.stack(upright + turned).reshape(ORIENTATIONS, 64)
    return np.packbits(flat > np.median(flat, axis=1, keepdims=True), axis=1).view(">u8").ravel().astype(np.uint64)


def to_row(found: Fingerprint) -> np.ndarray:
    """A fingerprint as (LENGTH,) uint64, to be kept."""
    row = np.zeros(LENGTH, np.uint64)
    row[: len(found.hashes)] = found.hashes
    number = len(found.words)
    row[ORIENTATIONS] = number * 2 + bool(len(found.hashes))
    row[ORIENTATIONS + 1 :][:number] = found.words
    row[ORIENTATIONS + 1 + WORDS :].view(np.uint8).reshape(WORDS, 4)[:number] = found.places
    return row


def _frequencies() -> tuple[np.ndarray, np.uint64]:
    """(128, 64) float32, a frequency a column; and the bits whose sign a mirror changes."""
    cells = np.cos(np.pi * (2 * np.arange(4)[None] + 1) * np.arange(4)[:, None] / 8)
    waves = 2 * np.pi * np.arange(8)[None] * np.arange(5)[:, None] / 8
    directions = [(k, False, wave) for k, wave in enumerate(np.cos(waves))]
    directions += [(k, True, wave) for k, wave in enumerate(np.sin(waves)) if 1 <= k <= 3]
    every = [
        ((row + column + k, row, column, is_sine, k), np.einsum("r,c,o->rco", cells[row], cells[column], wave).ravel())
        for row in range(4)
        for column in range(4)
        for k, is_sine, wave in directions
    ]
    every.sort(key=lambda item: item[0])
    turned_over = [bool((row + is_sine) % 2) for (_, row, _, is_sine, _), _ in every[1:65]]
    mirror = np.packbits(turned_over).view(">u8").astype(np.uint64)[0]
    return np.column_stack([column for _, column in every[1:65]]).astype(np.float32), mirror


_ODD = np.where(np.arange(8) % 2, -1.0, 1.0)[None]
_FREQUENCIES, MIRROR = _frequencies()
