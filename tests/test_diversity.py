import numpy as np

from curate.diversity import choose_varied

KINDS = np.array([[9, 1, 0, 0], [9, 1, 0, 1], [9, 1, 1, 0], [0, 1, 9, 9], [0, 0, 9, 8]], float)  # three and two


def test_without_embeddings_the_best_are_picked_and_of_equal_ones_the_earlier():
    assert choose_varied(np.array([0.5, 0.9, 0.5, 0.7]), None, 3, weight=1.0).tolist() == [1, 3, 0]


def test_of_about_equal_ones_the_next_is_unlike_those_picked():
    quality = np.array([0.90, 0.89, 0.88, 0.87, 0.86])
    assert choose_varied(quality, KINDS, 2, weight=0.5).tolist() == [0, 3]
    assert choose_varied(quality, KINDS, 2, weight=0.0).tolist() == [0, 1]


def test_novelty_does_not_outweigh_a_much_better_image():
    quality = np.array([0.9, 0.89, 0.88, 0.2, 0.1])
    assert choose_varied(quality, KINDS, 2, weight=0.1).tolist() == [0, 1]


def test_what_stays_anyway_counts_as_picked():
    quality = np.array([0.9, 0.89, 0.88, 0.87])
    assert choose_varied(quality, KINDS[:4], 1, weight=0.5, beside=KINDS[1:2]).tolist() == [3]


def test_an_image_that_does_not_open_is_never_novel():
    broken = KINDS.copy()
    broken[3] = np.nan
    assert choose_varied(np.full(5, 0.5), broken, 5, weight=1.0).tolist()[-1] == 3


def test_no_more_are_picked_than_there_are():
    assert sorted(choose_varied(np.zeros(5), KINDS, 9, weight=1.0)) == [0, 1, 2, 3, 4]
    assert choose_varied(np.zeros(5), KINDS, 0, weight=1.0).tolist() == []


def test_the_varied_choice_lies_further_apart():
    """Mean distance to the nearest other image, of 30 out of 120 in six crowds."""
    rng = np.random.default_rng(0)
    crowd = rng.normal(size=(6, 16))[rng.integers(6, size=120)] + rng.normal(scale=0.3, size=(120, 16))
    quality = rng.uniform(0.8, 1.0, 120)
    apart = []
    for weight in (0.0, 0.5):
        picked = crowd[choose_varied(quality, crowd, 30, weight=weight)]
        distance = np.linalg.norm(picked[:, None] - picked[None], axis=2) + 99 * np.eye(30)
        apart.append(distance.min(axis=1).mean())
    assert apart[1] > 1.05 * apart[0]
