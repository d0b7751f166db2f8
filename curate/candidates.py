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
NEAREST = 24  # pictures before it that one is compared with for its hash, nearest first: keeps the time linear
COMMON = 1000  # pictures that have a word: more say nothing, like the lettering of a stock photo agency
BLOCK = 20_000  # pictures whose words are looked up at once: bounds the memory
TOGETHER = 16  # shared words of two pictures that are looked at
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
    found = np.zeros((0, 3), int)
    for orientation in range(ORIENTATIONS):
        questions = group(rows[asked, orientation], asked, order)
        for i, j, bits in each_near(questions.hashes, answers.hashes, WHOLE_RADIUS):
            later, earlier, pair = cross(i, j, questions, answers, most=NEAREST + 1)
            before = earlier < later
            fresh = np.column_stack([earlier[before], later[before], bits[pair[before]]])
            found = np.append(found, fresh, axis=0)
            if len(found) > 4 * NEAREST * len(rows) + 1_000_000:
                found = _nearest(found)
    return _nearest(found)


def shared_words(
    rows: np.ndarray, chosen: np.ndarray, start: int = 0, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that have two words in common which lie to each other, in both pictures, in the same way.

    Weak geometric consistency (Jegou et al., "Hamming embedding and weak geometric consistency", ECCV 2008), with the
    positions: the first word says how the picture was turned, scaled and moved, and so where the second one must be.

    Time: linear in the pictures for each block of BLOCK of them, and so beyond that quadratic: see
    `python -m benchmarks.duplicates_scale --words`.

    Args:
        rows: (n, LENGTH) uint64, fingerprints.
        chosen: (k,) sorted, the pictures that are searched.
        start: pairs among the pictures before this one are not asked for.
        progress: called with the pieces of work done, and how many there are.

    Returns:
        (m, 2) int: earlier, later; and (m,) bool, whether one is like the mirrored other.
    """
    blocks = [chosen[k : k + BLOCK] for k in range(0, len(chosen), BLOCK)]
    later = chosen[chosen >= start]
    asked = [later[k : k + BLOCK] for k in range(0, len(later), BLOCK)]
    work = [(a, b) for b in asked for a in blocks if a[0] <= b[-1]]
    pairs, flipped = [np.zeros((0, 2), int)], [np.zeros(0, bool)]
    for done, (a, b) in enumerate(work, 1):
        words_a, words_b = _words(rows, a), _words(rows, b)
        for mirror in (False, True):
            found = _agreeing(rows, *_shared(words_a, words_b, mirror), mirror)
            pairs.append(found)
            flipped.append(np.full(len(found), mirror))
        if progress:
            progress(done, len(work))
    return np.concatenate(pairs), np.concatenate(flipped)


def _nearest(pairs: np.ndarray) -> np.ndarray:
    """Each (earlier, later) once, with its least distance, and of each later one the NEAREST earlier ones."""
    best = pairs[np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0]))]
    best = best[_is_first(best[:, :2])]
    best = best[np.lexsort((best[:, 0], best[:, 2], best[:, 1]))]
    first = _is_first(best[:, 1:2])
    place = np.arange(len(best)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    return best[place < NEAREST]


def _is_first(rows: np.ndarray) -> np.ndarray:
    """(n,) whether a row, (n, k), is unlike the one before it."""
    return np.append(True, (rows[1:] != rows[:-1]).any(axis=1))[: len(rows)]


def _shared(a: Words, b: Words, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Words of some pictures that are near a word of a later one of others: (m, 2) int each, picture and place."""
    (of_a, words_a), (of_b, words_b) = a, b
    among_themselves = not mirror and np.array_equal(of_a, of_b)
    asked = words_b ^ MIRROR if mirror else words_b
    first, second = [np.zeros((0, 2), np.int32)], [np.zeros((0, 2), np.int32)]
    for i, j, _ in each_near(asked, None if among_themselves else words_a, WORD_RADIUS):
        one, other = of_a[j], of_b[i]
        if among_themselves:
            one, other = np.where((one[:, :1] < other[:, :1])[None], (one, other), (other, one))
        before = one[:, 0] < other[:, 0]
        first.append(one[before])
        second.append(other[before])
    return np.concatenate(first), np.concatenate(second)


def _words(rows: np.ndarray, pictures: np.ndarray) -> Words:
    """(m, 2) int32, picture and place, and (m,) uint64 of each of their words that are not too common."""
    number = (rows[pictures, ORIENTATIONS] >> np.uint64(1)).astype(int)
    of = np.column_stack([np.repeat(pictures, number), _counting(number)]).astype(np.int32)
    found = rows[of[:, 0], ORIENTATIONS + 1 + of[:, 1]]
    ordered = np.sort(found)
    common = np.unique(ordered[COMMON:][ordered[COMMON:] == ordered[:-COMMON]])
    if len(common):
        kept = ~np.isin(found, common)
        of, found = of[kept], found[kept]
    return of, found


def _counting(number: np.ndarray) -> np.ndarray:
    """0 to n - 1 for each n, one after the other."""
    return np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)


def _agreeing(rows: np.ndarray, first: np.ndarray, second: np.ndarray, mirror: bool) -> np.ndarray:
    """(m, 2) the pairs of pictures with two shared words that agree on how one picture lies in the other."""
    key = first[:, 0].astype(np.int64) * len(rows) + second[:, 0]
    order = np.argsort(key, kind="stable")
    key, first, second = key[order], first[order], second[order]
    fresh = _is_first(key[:, None])
    kept = np.arange(len(key)) - np.flatnonzero(fresh)[np.cumsum(fresh) - 1] < TOGETHER
    key, first, second = key[kept], first[kept], second[kept]
    a, b = _places(rows, first), _places(rows, second)
    if mirror:
        a[:, 0], a[:, 2] = -a[:, 0], 128 - a[:, 2]
    agree = [np.zeros(0, np.int64)]
    for step in range(1, min(TOGETHER, len(key))):
        one = np.flatnonzero(key[step:] == key[:-step])
        agree.append(key[one[_lie_alike(a[one], a[one + step], b[one], b[one + step])]])
    pairs = np.unique(np.concatenate(agree))
    return np.column_stack([pairs // len(rows), pairs % len(rows)])


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
