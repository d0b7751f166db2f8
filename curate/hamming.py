"""All pairs of 64-bit hashes within a Hamming distance, exactly and without comparing all with all."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_CHUNK = 2_000_000  # comparisons of hashes held at once


class Groups(NamedTuple):
    """Images by hash: those of `hashes[k]` are `images[start[k] : start[k] + size[k]]`, the best image first."""

    hashes: np.ndarray
    images: np.ndarray
    start: np.ndarray
    size: np.ndarray


def pairs_within(bits: np.ndarray, radius: int) -> np.ndarray:
    """All pairs of 64-bit hashes within a Hamming distance, exactly.

    Args:
        bits: (n,) uint64.
        radius: bits.

    Returns:
        (m, 2) int, each row i < j, sorted. Equal hashes are searched once, however many there are.
    """
    groups = group(bits, np.arange(len(bits)), np.arange(len(bits)))
    i, j, _ = near(groups.hashes, groups.hashes, radius)
    a, b, _ = cross(i, j, groups, groups, most=len(bits))
    pairs = np.unique(np.stack([a[a < b], b[a < b]], axis=1), axis=0)
    return pairs.reshape(-1, 2)


def group(bits: np.ndarray, image: np.ndarray, rank: np.ndarray) -> Groups:
    """Images by hash: (m,) uint64 and the image of each; rank: (n,) of the images, 0 the best."""
    hashes, which = np.unique(bits, return_inverse=True)
    member = np.unique(np.stack([which, rank[image], image], axis=1), axis=0)  # sorted: by hash, the best first
    count = np.bincount(member[:, 0], minlength=len(hashes))
    return Groups(hashes, member[:, 2], np.cumsum(count) - count, count)


def near(a: np.ndarray, b: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index pairs (i, j) with a[i] and b[j] within `radius` bits, and the distance: (m,) each, in no order.

    Multi-index hashing (Norouzi et al., CVPR 2012): of `bands` bands of the hash one differs in at most
    radius // bands bits, so that looking up those flips of every band misses nothing.
    """
    bands = max(4, radius // 3 + 1)
    if bands > 16:  # too wide for bands to help
        return _collect(_every_pair(len(a), len(b)), a, b, radius)
    return _collect(_in_shared_bands(a, b, bands, radius // bands), a, b, radius)


def _collect(
    chunks: Iterator[tuple[np.ndarray, np.ndarray]], a: np.ndarray, b: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys = [np.zeros(0, np.int64)]
    for i, j in chunks:
        near = np.bitwise_count(a[i] ^ b[j]) <= radius
        keys.append(i[near] * len(b) + j[near])
    i, j = np.divmod(np.unique(np.concatenate(keys)), max(len(b), 1))
    return i, j, np.bitwise_count(a[i] ^ b[j]).astype(int)


def _every_pair(n: int, m: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    step = max(1, _CHUNK // max(m, 1))
    for start in range(0, n, step):
        i, j = np.meshgrid(np.arange(start, min(start + step, n)), np.arange(m), indexing="ij")
        yield i.ravel(), j.ravel()


def _in_shared_bands(a: np.ndarray, b: np.ndarray, bands: int, flips: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index pairs that differ in at most `flips` bits of one of the bands; some more than once."""
    edges = np.linspace(0, 64, bands + 1).astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        key_a, key_b = ((bits >> np.uint64(low) & mask).astype(np.int64) for bits in (a, b))
        order, count = np.argsort(key_b, kind="stable"), np.bincount(key_b, minlength=int(mask) + 1)
        start = np.cumsum(count) - count
        patterns = np.arange(int(mask) + 1)
        for flip in patterns[np.bitwise_count(patterns) <= flips]:
            for i, k in _spans(count[key_a ^ flip]):
                yield i, order[start[key_a[i] ^ flip] + k]


def _spans(count: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each n of `count` its index and 0 to n - 1, in pieces of about _CHUNK."""
    index = np.flatnonzero(count)
    total = np.cumsum(count[index])
    cuts = np.searchsorted(total, np.arange(_CHUNK, total[-1] if len(total) else 0, _CHUNK))
    for piece in np.split(index, np.unique(cuts)):
        n = count[piece]
        yield np.repeat(piece, n), np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)


def cross(i: np.ndarray, j: np.ndarray, a: Groups, b: Groups, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images behind pairs of hashes, and of which pair: all of one side with the `most` best of the other."""
    sides = [(a.size[i], np.minimum(b.size[j], most)), (np.minimum(a.size[i], most), b.size[j])]
    out = []
    for n, m in sides:
        pair = np.repeat(np.arange(len(i)), n * m)
        place = np.arange(len(pair)) - np.repeat(np.cumsum(n * m) - n * m, n * m)
        of_a, of_b = a.start[i][pair] + place // m[pair], b.start[j][pair] + place % m[pair]
        out.append((a.images[of_a], b.images[of_b], pair))
    first, second, pair = (np.concatenate(column) for column in zip(*out, strict=True))
    return first, second, pair
