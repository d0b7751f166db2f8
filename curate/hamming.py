"""All pairs of 64-bit hashes within a Hamming distance, exactly and without comparing all with all."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np

_CHUNK = 2_000_000  # comparisons of hashes held at once
FEW = 4  # as many times more hashes on the other side, that these few are not looked up in them but the other way
LOOKED_UP = 12_000  # keys at once, where there are few: more leave the cache, and memory has to be asked for
LIGHT = 4  # hashes of a bucket that are taken one by one
LOOK, COMPARE, PASS = 1.2, 1.5, 8000  # a bucket, two hashes, a flip: each in comparisons of all with all


Places = Iterator[tuple[np.ndarray, np.ndarray]]


class Groups(NamedTuple):
    """Images by hash: those of `hashes[k]` are `images[start[k] : start[k] + size[k]]`, the best image first."""

    hashes: np.ndarray
    images: np.ndarray
    start: np.ndarray
    size: np.ndarray


def group(bits: np.ndarray, image: np.ndarray, rank: np.ndarray) -> Groups:
    """Images by hash: (m,) uint64 and the image of each; rank: (n,) of the images, 0 the best."""
    hashes, which = np.unique(bits, return_inverse=True)
    member = np.unique(np.stack([which, rank[image], image], axis=1), axis=0)  # sorted: by hash, the best first
    count = np.bincount(member[:, 0], minlength=len(hashes))
    return Groups(hashes, member[:, 2], np.cumsum(count) - count, count)


def near(a: np.ndarray, b: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index pairs (i, j) with a[i] and b[j] within `radius` bits, and the distance: (m,) each, in no order."""
    nothing = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))
    i, j, distance = (np.concatenate(column) for column in zip(nothing, *each_near(a, b, radius), strict=True))
    return i, j, distance


def each_near(a: np.ndarray, b: np.ndarray | None, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same in pieces, each pair once; memory for the hashes and a piece. Without `b`, the pairs i < j of `a` alone.

    Multi-index hashing (Norouzi et al., CVPR 2012): of `bands` bands of the hash one differs in at most
    radius // bands bits, so that looking up those flips of every band misses nothing. A pair counts in the first band
    that finds it.
    """
    other, alone = (a, True) if b is None else (b, False)
    bands = _best_bands(len(a), len(other), radius)
    flips, edges = radius // bands, np.linspace(0, 64, bands + 1).astype(int)
    earlier: list[np.uint64] = []
    for low, high in pairwise(edges.tolist()):
        mask = np.uint64(((1 << (high - low)) - 1) << low)
        key_a, key_b = (((bits & mask) >> np.uint64(low)).astype(np.int32) for bits in (a, other))
        if bands == 1:
            order_a, order_b, places = np.arange(len(a)), np.arange(len(other)), _every_pair(len(a), len(other), alone)
        else:
            order_a, order_b, places = _in_band(key_a, key_b, high - low, flips, alone)
        in_a, in_b = a[order_a], other[order_b]
        for i, j in places:
            difference = in_a[i] ^ in_b[j]
            near = np.flatnonzero(np.bitwise_count(difference) <= radius)
            i, j, difference = order_a[i[near]], order_b[j[near]], difference[near]
            fresh = np.ones(len(i), bool)
            for band in earlier:
                fresh &= np.bitwise_count(difference & band) > flips
            if alone:
                i, j = np.minimum(i, j), np.maximum(i, j)
            yield i[fresh], j[fresh], np.bitwise_count(difference[fresh]).astype(int)
        earlier.append(mask)


def _best_bands(n: int, m: int, radius: int) -> int:
    """How many bands need the fewest steps: looking up more flips of wider bands, or comparing more candidates."""

    def steps(bands: int) -> float:
        if bands == 1:
            return float(n * m)
        width = -(-64 // bands)
        looks = bands * sum(comb(width, flips) for flips in range(radius // bands + 1))
        return looks * (LOOK * n + COMPARE * n * m / 2 ** (64 / bands) + PASS) + bands * 2**width

    return min([1, *(bands for bands in range(3, 17) if radius // bands <= 64 // bands)], key=steps)


def _every_pair(n: int, m: int, alone: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    step = max(1, _CHUNK // max(m, 1))
    for start in range(0, n, step):
        i, j = np.meshgrid(np.arange(start, min(start + step, n)), np.arange(m), indexing="ij")
        once = i < j if alone else slice(None)
        yield i[once].ravel(), j[once].ravel()


def _in_band(
    key_a: np.ndarray, key_b: np.ndarray, width: int, flips: int, alone: bool
) -> tuple[np.ndarray, np.ndarray, Places]:
    """In what order a and b are taken, and the places (i, j) therein whose keys differ in at most `flips` bits."""
    if not alone and len(key_a) * FEW * sum(comb(width, n) for n in range(flips + 1)) < len(key_b):
        return _few_among_many(key_a, key_b, width, flips)
    short = np.uint16 if width <= 16 else np.int32  # which are sorted by radix
    order_b = np.argsort(key_b.astype(short), kind="stable")
    order_a = order_b if alone else np.argsort(key_a.astype(short), kind="stable")
    in_a, in_b = key_a[order_a], key_b[order_b]  # neighbours look up neighbours, which the processor's caches like
    return order_a, order_b, _look_up(in_a, in_b, width, flips, alone)


def _few_among_many(
    key_a: np.ndarray, key_b: np.ndarray, width: int, flips: int
) -> tuple[np.ndarray, np.ndarray, Places]:
    """The same, without sorting b: each of b looks up the keys of a in all their flips."""
    patterns = np.fromiter(_patterns(width, flips), np.int32)
    flipped = (key_a[:, None] ^ patterns).ravel()
    order = np.argsort(flipped, kind="stable")
    places = ((j, i) for i, j in _look_up(key_b, flipped[order], width, 0, False))
    return order // len(patterns), np.arange(len(key_b)), places


def _look_up(key_a: np.ndarray, key_b: np.ndarray, width: int, flips: int, alone: bool) -> Places:
    """Places (i, j) of keys, b's sorted, that differ in at most `flips` of their `width` bits, each once.

    `alone`: both are the same keys, and (j, i) is (i, j): of two keys that differ, the one looks up that has a 0 where
    the highest of the differences is.
    """
    count = np.bincount(key_b, minlength=1 << width).astype(np.int32)
    start = np.cumsum(count, dtype=np.int64) - count
    everyone = np.arange(len(key_a))
    patterns = list(_patterns(width, flips))
    together = max(1, LOOKED_UP // max(len(key_a), 1))
    for first in range(0, len(patterns), together):
        rows, wanted = [], []
        for flip in patterns[first : first + together]:
            asks = np.flatnonzero(key_a & np.int32(1 << (flip.bit_length() - 1)) == 0) if alone and flip else everyone
            rows.append(asks)
            wanted.append(key_a[asks] ^ np.int32(flip))
        asking, key = np.concatenate(rows), np.concatenate(wanted)
        for k, nth in _spans(count[key]):
            i, j = asking[k], start[key[k]] + nth
            if alone and not first:  # the pattern without a flip is among these
                once = (i < j) | (key_a[i] != key[k])
                i, j = i[once], j[once]
            yield i, j


def _patterns(width: int, flips: int) -> Iterator[int]:
    """Numbers of `width` bits of which at most `flips` are set."""
    for number in range(flips + 1):
        for places in combinations(range(width), number):
            yield sum(1 << place for place in places)


def _spans(count: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | int]]:
    """For each n of `count` its index and each of 0 to n - 1, in pieces."""
    index, light = np.flatnonzero(count), 0
    if count.sum(dtype=np.int64) > LOOKED_UP:
        while light < LIGHT and len(index):  # most have few
            yield index, light
            light += 1
            index = index[count[index] > light]
    left = count[index].astype(np.int64) - light
    cuts = np.searchsorted(np.cumsum(left), np.arange(_CHUNK, left.sum(), _CHUNK))
    for piece in np.split(np.arange(len(index)), np.unique(cuts)):
        n = left[piece]
        yield np.repeat(index[piece], n), light + np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)


def cross(i: np.ndarray, j: np.ndarray, a: Groups, b: Groups, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images behind pairs of hashes, and of which pair: each image of a with the `most` best ones of b."""
    n, m = a.size[i], np.minimum(b.size[j], most)
    pair = np.repeat(np.arange(len(i)), n * m)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(n * m) - n * m, n * m)
    of_a, of_b = a.start[i][pair] + place // m[pair], b.start[j][pair] + place % m[pair]
    return a.images[of_a], b.images[of_b], pair
