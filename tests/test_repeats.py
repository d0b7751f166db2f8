import numpy as np
import pytest

from curate.repeats import object_repeats


def stone(seed: int, side: int = 90) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(40, 215, (side // 6, side // 6, 3), dtype=np.uint8), np.ones((6, 6, 1), np.uint8))


def scene(*stones: np.ndarray) -> np.ndarray:
    """Stones in a row on grey."""
    picture = np.full((130, 130 * len(stones), 3), 200, np.uint8)
    for i, one in enumerate(stones):
        picture[20 : 20 + len(one), 130 * i + 20 : 130 * i + 20 + len(one)] = one
    return picture


def test_a_stone_beside_its_copy_repeats_itself_and_two_stones_do_not():
    assert object_repeats(scene(stone(1), stone(1))) > 0.9
    assert object_repeats(scene(stone(1), stone(2))) < 0.5
    assert object_repeats(scene(stone(1))) < 0.5


@pytest.mark.parametrize("picture", [np.full((40, 300, 3), 7, np.uint8), np.zeros((3, 3, 3), np.uint8)])
def test_a_picture_without_detail_repeats_nothing(picture):
    assert object_repeats(picture) == 0.0
