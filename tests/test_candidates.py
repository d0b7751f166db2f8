"""Candidates are pairs with near hashes or with two words that lie alike; what comes later changes none of them."""

import numpy as np
import pytest

import curate.candidates
from curate.candidates import HITS, NEAREST, near_wholes, shared_words
from curate.fingerprint import LENGTH, MIRROR, ORIENTATIONS, WORDS

RNG = np.random.default_rng(0)


def row(words: np.ndarray, places: np.ndarray, hashes: np.ndarray | None = None) -> np.ndarray:
    """A fingerprint: (n,) uint64 words, (n, 4) places."""
    out = np.zeros(LENGTH, np.uint64)
    out[:ORIENTATIONS] = RNG.integers(0, 2**64, ORIENTATIONS, dtype=np.uint64) if hashes is None else hashes
    out[ORIENTATIONS] = 2 * len(words) + 1
    out[ORIENTATIONS + 1 :][: len(words)] = words
    out[ORIENTATIONS + 1 + WORDS :].view(np.uint8).reshape(WORDS, 4)[: len(words)] = places
    return out


def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
    places = np.column_stack([RNG.integers(60, 160, (n, 2)), RNG.integers(0, 256, n), RNG.integers(40, 60, n)])
    return RNG.integers(0, 2**64, n, dtype=np.uint64), places


def moved(places: np.ndarray, turn: float, scale: float) -> np.ndarray:
    """The places in the picture turned about its centre (in turns) and scaled."""
    angle = 2 * np.pi * turn
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    at = (places[:, :2] - 112) @ matrix.T + 112
    facts = np.column_stack([at, (places[:, 2] + 256 * turn) % 256, places[:, 3] + 16 * np.log2(scale)])
    return facts.round().clip(0, 255)


def found(rows: list[np.ndarray], start: int = 0) -> list[list[int]]:
    return shared_words(np.stack(rows), np.arange(len(rows)), start).tolist()


@pytest.mark.parametrize("turn", [0, 0.02, 0.25, 0.7])
@pytest.mark.parametrize("scale", [0.5, 1, 1.6])
def test_two_words_that_lie_alike_make_a_pair(turn, scale):
    words, places = drawn(40)
    shared = np.append(words[:2] ^ np.uint64(0b10011), RNG.integers(0, 2**64, 30, dtype=np.uint64))
    where = np.concatenate([moved(places[:2], turn, scale), drawn(30)[1]])
    assert found([row(words, places), row(shared, where)]) == [[0, 1]]


def test_words_that_lie_otherwise_make_none():
    words, places = drawn(12)
    shuffled = places[RNG.permutation(12)].copy()
    shuffled[:, 2] = (places[:, 2] + np.arange(12) * 40) % 256
    assert found([row(words, places), row(words, shuffled)]) == []


def test_one_word_makes_none_and_neither_do_two_at_one_place():
    words, places = drawn(10)
    assert found([row(words, places), row(words[:1], places[:1])]) == []
    assert found([row(words[:2], places[[0, 0]]), row(words[:2], places[[0, 0]])]) == []


def test_a_mirrored_picture_is_met_by_its_words_in_a_mirror():
    words, places = drawn(40)
    other = places.copy()
    other[:, 0], other[:, 2] = 223 - places[:, 0], (128 - places[:, 2]) % 256
    assert found([row(words, places), row(words ^ MIRROR, other)]) == [[0, 1]]


def test_of_a_word_that_very_many_have_the_earliest_pictures_count(monkeypatch):
    """Each of 60 pictures under one watermark is compared with a few, whenever the hits are thinned out."""
    words, places = drawn(10)
    rows = [row(words, places)] * 60
    few = found(rows)
    assert set(map(tuple, few)) >= {(0, n) for n in range(1, 60)}
    assert len(few) <= 60 * NEAREST
    assert HITS <= NEAREST
    monkeypatch.setattr(curate.candidates, "HELD", 100)
    assert found(rows) == few
    assert [pair for pair in few if pair[1] < 40] == found(rows[:40])
    assert [pair for pair in few if pair[1] >= 40] == found(rows, 40)


@pytest.mark.parametrize("block", [2, 3, 7, 100])
@pytest.mark.parametrize("start", [0, 5, 9])
def test_blocks_change_nothing_and_only_pairs_with_later_ones_are_asked_for(block, start, monkeypatch):
    families = [drawn(30) for _ in range(3)]
    rows = [row(*families[n % 3]) for n in range(10)]
    monkeypatch.setattr(curate.candidates, "BLOCK", block)
    expected = [[a, b] for a in range(10) for b in range(a + 1, 10) if a % 3 == b % 3 and b >= start]
    assert sorted(found(rows, start)) == expected
    wholes = np.stack([row(*drawn(1), np.full(8, 1000 * (n % 3), np.uint64)) for n in range(10)])
    wholes[:, :ORIENTATIONS] *= np.uint64(2**50 + 12345)
    assert near_wholes(wholes, start)[:, :2].tolist() == sorted(expected, key=lambda p: (p[1], p[0]))


def test_of_thousands_of_equal_pictures_each_is_compared_with_the_first_ones():
    """Of 3,000 equal hashes: not 4.5 million pairs."""
    rows = np.tile(row(*drawn(1), np.full(8, 0x1234567890ABCDEF, np.uint64)), (3000, 1))
    pairs = near_wholes(rows)
    assert len(pairs) < 3000 * NEAREST
    assert set(pairs[pairs[:, 0] == 0, 1]) == set(range(1, 3000))


def test_more_pictures_take_no_candidate_away():
    base = RNG.integers(0, 2**64, dtype=np.uint64)
    flips = np.uint64(1) << RNG.integers(0, 64, (200, 4)).astype(np.uint64)
    rows = np.stack([row(*drawn(1), np.full(8, base ^ np.bitwise_or.reduce(f), np.uint64)) for f in flips])
    few, all_ = (near_wholes(rows[:n]).tolist() for n in (100, 200))
    assert [pair for pair in all_ if pair[1] < 100] == few
    assert [pair for pair in all_ if pair[1] >= 100] == near_wholes(rows, 100).tolist()
