"""All pairs of hashes within a distance are found, each once, whatever the data."""

import numpy as np
import pytest

from curate.hamming import each_near, near


def hashes(kind: str, n: int) -> np.ndarray:
    """Drawn by chance, or half of them few bits from one centre, so that they share all buckets."""
    rng = np.random.default_rng(n)
    bits = rng.integers(0, 2**64, n, dtype=np.uint64)
    if kind == "alike" and n:
        turned = np.uint64(1) << rng.integers(0, 64, (n // 2, 3)).astype(np.uint64)
        bits[: n // 2] = bits[0] ^ np.bitwise_xor.reduce(turned, axis=1)
    return np.unique(bits)


def all_with_all(a: np.ndarray, b: np.ndarray, radius: int) -> set[tuple[int, int, int]]:
    distance = np.bitwise_count(a[:, None] ^ b[None])
    return {(i, j, int(distance[i, j])) for i, j in np.argwhere(distance <= radius).tolist()}


@pytest.mark.parametrize("radius", [0, 1, 4, 8, 12, 24, 40, 64])
@pytest.mark.parametrize("kind", ["chance", "alike"])
def test_each_pair_is_found_and_found_once(kind, radius):
    a, b = hashes(kind, 300), hashes(kind, 120)
    found = list(zip(*(column.tolist() for column in near(a, b, radius)), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == all_with_all(a, b, radius)


@pytest.mark.parametrize("radius", [0, 1, 4, 8, 12])
@pytest.mark.parametrize("kind", ["chance", "alike"])
@pytest.mark.parametrize("few", [0, 1, 3])
def test_a_few_are_found_among_many(few, kind, radius, monkeypatch):
    monkeypatch.setattr("curate.hamming._best_bands", lambda n, m, radius: 4)
    many = hashes(kind, 40_000)
    a = np.unique(np.append(many[:few] ^ np.uint64(5), many[5 : 5 + few]))
    found = list(zip(*(column.tolist() for column in near(a, many, radius)), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == all_with_all(a, many, radius)


@pytest.mark.parametrize("radius", [0, 3, 8, 13, 30])
@pytest.mark.parametrize("n", [0, 1, 2, 700])
@pytest.mark.parametrize("kind", ["chance", "alike"])
def test_among_themselves_each_pair_comes_once_the_smaller_index_first(kind, n, radius):
    a = hashes(kind, n)
    found = [pair for piece in each_near(a, None, radius) for pair in zip(*(c.tolist() for c in piece), strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == {(i, j, d) for i, j, d in all_with_all(a, a, radius) if i < j}


@pytest.mark.parametrize("bands", [1, 3, 4, 5, 7, 11, 16])
def test_the_number_of_bands_changes_nothing(bands, monkeypatch):
    a = hashes("alike", 400)
    monkeypatch.setattr("curate.hamming._best_bands", lambda n, m, radius: bands)
    found = {pair for piece in each_near(a, None, 6) for pair in zip(*(c.tolist() for c in piece), strict=True)}
    assert found == {(i, j, d) for i, j, d in all_with_all(a, a, 6) if i < j}
