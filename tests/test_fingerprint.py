"""What a picture is searched by stays the same where the picture does, and turns over in a mirror as it should."""

import imagehash
import numpy as np
import pytest
from PIL import Image

from curate.copies import Look, look_at, mirrored
from curate.fingerprint import LENGTH, MIRROR, ORIENTATIONS, WORDS, fingerprint, orientation_hashes, to_row, words
from tests.test_dedup import gray, texture


def hash_of(pixels: np.ndarray) -> int:
    return int(str(imagehash.phash(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX))), 16)


def test_the_eight_hashes_are_those_of_the_picture_in_its_eight_orientations():
    """Turned clockwise by 0 to 3 quarters, then the mirrored picture in the same way; the bits are imagehash's."""
    pixels = gray(texture(1).resize((224, 224)))
    turned = [np.rot90(side, -quarters) for side in (pixels, pixels[:, ::-1]) for quarters in range(4)]
    expected = [hash_of(np.ascontiguousarray(t)) for t in turned]
    assert len(set(expected)) == 8
    bits = [int(a) ^ b for a, b in zip(orientation_hashes(pixels), expected, strict=True)]
    assert max(b.bit_count() for b in bits) <= 2  # imagehash's filter is another


def test_a_flat_picture_has_no_hash():
    assert len(orientation_hashes(np.full((100, 200), 128, np.uint8))) == 0


def test_the_words_of_a_mirrored_picture_are_its_words_with_fixed_bits_turned_over():
    look = look_at(gray(texture(2)))
    assert (words(mirrored(look).descriptors) == words(look.descriptors) ^ MIRROR).all()


def test_what_is_mirrored_is_what_is_found_in_the_mirrored_picture():
    """Most points lie at the same place, at the same angle, with the same word; the search for them is not exact."""
    pixels = gray(texture(2))
    ours, found = mirrored(look_at(pixels)), look_at(np.ascontiguousarray(pixels[:, ::-1]))
    away = np.linalg.norm(ours.points[:, None] - found.points[None], axis=2)
    angle = np.abs((ours.angles[:, None] - found.angles[None] + 180) % 360 - 180)
    same = (away < 1.5) & (angle < 5)
    assert same.any(axis=1).mean() > 0.8
    bits = np.bitwise_count(words(ours.descriptors)[:, None] ^ words(found.descriptors)[None])
    assert np.median(np.where(same, bits, 64).min(axis=1)) <= 6


def test_a_word_survives_noise_and_differs_between_features():
    rng = np.random.default_rng(0)
    descriptors = look_at(gray(texture(3))).descriptors
    shaken = np.clip(descriptors + rng.normal(0, 2, descriptors.shape), 0, 255).astype(np.uint8)
    apart = np.bitwise_count(words(descriptors) ^ words(shaken))
    others = np.bitwise_count(words(descriptors)[1:] ^ words(descriptors)[:-1])
    assert np.median(apart) <= 5
    assert np.median(others) > 20


def test_half_of_the_words_are_of_the_strongest_features_half_of_the_largest():
    n = 400
    rng = np.random.default_rng(0)
    sizes, strengths = rng.permutation(np.arange(1.0, n + 1)), rng.permutation(np.arange(1.0, n + 1)) / n
    look = Look(
        np.zeros((10, 10), np.uint8),
        rng.uniform(0, 224, (n, 2)).astype(np.float32),
        sizes.astype(np.float32),
        np.zeros(n, np.float32),
        strengths.astype(np.float32),
        rng.integers(0, 255, (n, 128)).astype(np.uint8),
    )
    found = fingerprint(look)
    strong = np.argsort(-strengths)[: WORDS // 2]
    left = np.setdiff1d(np.arange(n), strong)
    large = left[np.argsort(-sizes[left])[: WORDS // 2]]
    assert found.words.tolist() == words(look.descriptors[np.append(strong, large)]).tolist()


@pytest.mark.parametrize("picture", [texture(1), Image.new("L", (300, 10), 99), Image.new("L", (1, 1))])
def test_a_row_holds_a_fingerprint(picture):
    found = fingerprint(look_at(gray(picture)))
    row = to_row(found)
    n = int(row[ORIENTATIONS]) >> 1
    assert row.shape == (LENGTH,)
    assert n == len(found.words)
    assert bool(row[ORIENTATIONS] & np.uint64(1)) == bool(len(found.hashes))
    assert row[ORIENTATIONS + 1 :][:n].tolist() == found.words.tolist()
    assert row[ORIENTATIONS + 1 + WORDS :].view(np.uint8).reshape(-1, 4)[:n].tolist() == found.places.tolist()
