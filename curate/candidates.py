"""Pairs of pictures that may be the same photograph, out of their fingerprints, without comparing all with all.

Pictures have an order: the ones that were there first. A pair is (earlier, later), and what makes it a candidate does
not depend on pictures that come after both: adding pictures never takes a candidate away.
"""

from collections.abc import Callable

import numpy as np

from curate.fingerprint import MIRROR, ORIENTATIONS, WORDS
from curate.hamming import cross, each_near, group

WHOLE_RADIUS = 8  # bits of 64 between perceptual hashes of the whole pictures
WORD_RADIUS = 5  # bits of 64 between words
NEAREST = 24  # pictures before it that one is compared with for its hash, and for its words: keeps the time linear
HITS = 24  # of a word: earlier pictures that have it too, the earliest; bounds what a common watermark costs
BLOCK = 20_000  # pictures whose words are looked up at once: bounds the memory
TOGETHER = 16  # shared words of two pictures that are looked at, those of the strongest features first
HELD = 8_000_000  # hits held before those beyond HITS are dropped
PIECE = 2_000_000  # pairs of pictures made of pairs of hashes at once
SAME_ANGLE = 14  # 256ths of a turn (20 degrees) by which two words may be turned differently
SAME_SIZE = 10  # sixteenths of an octave (a factor of 1.5)
APART = 3.0  # pixels between two words, that they count as two
PLACED = (6.0, 0.4)  # pixels, and share of their distance, that the second word may be away from where it should be

Progress = Callable[[int, int], None]
Words = tuple[np.ndarray, np.ndarray]  # (m, 2) int32, picture and place, and (m,) uint64


def near_wholes(rows: np.ndarray, start: int = 0) -> np.ndarray:
    """Pairs whose perceptual hashes lie near each other in some orientation.

    Multi-index hashing finds all within WHOLE_RADIUS; of each picture the NEAREST before it are kept.

    Args:
        rows: (n, LENGTH) uint64, fingerprints.
        start: pairs among the pictures before this one are not asked for.

    Returns:
        (m, 3) int: earlier, later, bits.
    """
    hashed = np.flatnonzero(rows[:, ORIENTATIONS] & np.uint64(1))
    asked, order = hashed[hashed >= start], np.arange(len(rows))
    answers = group(rows[hashed, 0], hashed, order)
    found, number, most = [np.zeros((0, 3), int)], 0, 2 * PIECE
    for orientation in range(ORIENTATIONS):
        questions = group(rows[asked, orientation], asked, order)
        for i, j, bits in each_near(questions.hashes, answers.hashes, WHOLE_RADIUS):
            made = np.cumsum(questions.size[i] * np.minimum(answers.size[j], NEAREST + 1))
            for k in np.split(np.arange(len(i)), np.searchsorted(made, np.arange(PIECE, made[-1:].sum(), PIECE))):
                later, earlier, pair = cross(i[k], j[k], questions, answers, most=NEAREST + 1)
                before = earlier < later
                found.append(np.column_stack([earlier[before], later[before], bits[k][pair[before]]]))
                number += len(found[-1])
                if number > most:
                    found = [_nearest(np.concatenate(found))]
                    number = len(found[0])
                    most = 2 * PIECE + number
    return _nearest(np.concatenate(found))


def shared_words(rows: np.ndarray, chosen: np.ndarray, start: int = 0, progress: Progress | None = None) -> np.ndarray:
    """Pairs that have two words in common which lie to each other, in both pictures, in the same way.

    Weak geometric consistency (Jegou et al., "Hamming embedding and weak geometric consistency", ECCV 2008), with the
    positions: the first word says how the picture was turned, scaled and moved, and so where the second one must be.

    Time: linear in a block of BLOCK pictures, and so quadratic beyond: 20,000 take 19 processor seconds and 40,000 take
    69, where their fingerprints take 240 and 480. Lettering that thousands of pictures share is looked up among all of
    them: 2,000 with 40 words in common take 24 seconds.

    Args:
        rows: (n, LENGTH) uint64, fingerprints.
        chosen: (k,) sorted, the pictures that are searched.
        start: pairs among the pictures before this one are not asked for.
        progress: called with the pieces of work done, and how many there are.

    Returns:
        (m, 2) int: earlier, later; of each later one the NEAREST earlier ones, those with the most words in common.
    """
    blocks = [chosen[k : k + BLOCK] for k in range(0, len(chosen), BLOCK)]
    later = chosen[chosen >= start]
    asked = [later[k : k + BLOCK] for k in range(0, len(later), BLOCK)]
    work = [(a, b) for b in asked for a in blocks if a[0] <= b[-1]]
    pairs = [np.zeros((0, 3), int)]
    for done, (a, b) in enumerate(work, 1):
        words_a, words_b = _words(rows, a), _words(rows, b)
        for mirror in (False, True):
            pairs.append(_agreeing(rows, *_shared(words_a, words_b, mirror), mirror))
        if progress:
            progress(done, len(work))
    return _nearest(np.concatenate(pairs))[:, :2]


def _nearest(pairs: np.ndarray) -> np.ndarray:
    """Each (earlier, later) once, with the least of its third column; of each later one the NEAREST by that."""
    best = pairs[np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0]))]
    best = best[_is_first(best[:, :2])]
    best = best[np.lexsort((best[:, 0], best[:, 2], best[:, 1]))]
    return best[_places_since(_is_first(best[:, 1:2])) < NEAREST]


def _is_first(rows: np.ndarray) -> np.ndarray:
    """(n,) whether a row, (n, k), is unlike the one before it."""
    return np.append(True, (rows[1:] != rows[:-1]).any(axis=1))[: len(rows)]


def _places_since(first: np.ndarray) -> np.ndarray:
    """(n,) how many places after the last True each one is; the first one is True."""
    return np.arange(len(first)) - np.flatnonzero(first)[np.cumsum(first) - 1]


def _shared(a: Words, b: Words, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Words of some pictures that are near a word of a later one of others: (m, 2) int each, picture and place."""
    (of_a, words_a), (of_b, words_b) = a, b
    among_themselves = not mirror and np.array_equal(of_a, of_b)
    asked = words_b ^ MIRROR if mirror else words_b
    held, number, most = [np.zeros((2, 0), np.int64)], 0, HELD
    for i, j, _ in each_near(asked, None if among_themselves else words_a, WORD_RADIUS):
        if among_themselves:
            i, j = np.maximum(i, j), np.minimum(i, j)  # words are in the order of their pictures
        before = of_a[j, 0] < of_b[i, 0]
        held.append(np.stack([i[before], j[before]]))
        number += held[-1].shape[1]
        if number > most:
            held = [_earliest(np.concatenate(held, axis=1))]
            number = held[0].shape[1]
            most = HELD + number
    later, earlier = _earliest(np.concatenate(held, axis=1))
    return of_a[earlier], of_b[later]


def _earliest(hits: np.ndarray) -> np.ndarray:
    """Of each later word (first row) its HITS earliest ones (second row), sorted."""
    hits = hits[:, np.lexsort((hits[1], hits[0]))]
    first = _is_first(hits[0][:, None])
    return hits[:, _places_since(first) < HITS]


def _words(rows: np.ndarray, pictures: np.ndarray) -> Words:
    """(m, 2) int32, picture and place, and (m,) uint64 of each of their words, in order."""
    number = (rows[pictures, ORIENTATIONS] >> np.uint64(1)).astype(int)
    of = np.column_stack([np.repeat(pictures, number), _counting(number)]).astype(np.int32)
    return of, rows[of[:, 0], ORIENTATIONS + 1 + of[:, 1]]


def _counting(number: np.ndarray) -> np.ndarray:
    """0 to n - 1 for each n, one after the other."""
    return np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)


def _agreeing(rows: np.ndarray, first: np.ndarray, second: np.ndarray, mirror: bool) -> np.ndarray:
    """(m, 3) the pairs of pictures with two shared words that agree on how one lies in the other, and - words."""
    key = first[:, 0].astype(np.int64) * len(rows) + second[:, 0]
    order = np.lexsort((first[:, 1], second[:, 1], key))
    key, first, second = key[order], first[order], second[order]
    begins = np.flatnonzero(_is_first(key[:, None]))
    met, number = key[begins], np.diff(begins, append=len(key))
    kept = _places_since(_is_first(key[:, None])) < TOGETHER
    key, first, second = key[kept], first[kept], second[kept]
    a, b = _places(rows, first), _places(rows, second)
    if mirror:
        a[:, 0], a[:, 2] = -a[:, 0], 128 - a[:, 2]
    agree = [np.zeros(0, np.int64)]
    for step in range(1, min(TOGETHER, len(key))):
        one = np.flatnonzero(key[step:] == key[:-step])
        agree.append(key[one[_lie_alike(a[one], a[one + step], b[one], b[one + step])]])
    pairs = np.unique(np.concatenate(agree))
    return np.column_stack([pairs // len(rows), pairs % len(rows), -number[np.searchsorted(met, pairs)]])


def _places(rows: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(m, 4) float32: x, y, angle, size of words, as in `Fingerprint`."""
    packed = rows[of[:, 0], ORIENTATIONS + 1 + WORDS + of[:, 1] // 2]
    both = packed.view(np.uint8).reshape(-1, 2, 4)
    return both[np.arange(len(of)), of[:, 1] % 2].astype(np.float32)


def _lie_alike(a1: np.ndarray, a2: np.ndarray, b1: np.ndarray, b2: np.ndarray) -> np.ndarray:
    """(m,) whether two words of a and their like in b agree on turn, scale and shift: (m, 4) each."""
    turn, other_turn = b1[:, 2] - a1[:, 2], b2[:, 2] - a2[:, 2]
    size, other_size = b1[:, 3] - a1[:, 3], b2[:, 3] - a2[:, 3]
    same_angle = np.abs((turn - other_turn + 128) % 256 - 128) <= SAME_ANGLE
    step_a, step_b = (second[:, :2] - first[:, :2] for first, second in ((a1, a2), (b1, b2)))
    angle, scale = turn * np.float32(2 * np.pi / 256), np.exp2(size / 16)
    where_x = scale * (np.cos(angle) * step_a[:, 0] - np.sin(angle) * step_a[:, 1])
    where_y = scale * (np.sin(angle) * step_a[:, 0] + np.cos(angle) * step_a[:, 1])
    away = np.hypot(where_x - step_b[:, 0], where_y - step_b[:, 1])
    long_a, long_b = (np.hypot(*step.T) for step in (step_a, step_b))
    placed = away <= PLACED[0] + PLACED[1] * long_b
    return same_angle & (np.abs(size - other_size) <= SAME_SIZE) & placed & (np.minimum(long_a, long_b) >= APART)
