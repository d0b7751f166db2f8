import numpy as np
import pytest

from curate.masked import masked_accuracy


def test_a_model_that_knows_classes_by_their_backgrounds_is_caught():
    """The first half of an embedding is the background, which tells the class; the second the foreground."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 40)
    behind = rng.normal(0, 1, (120, 20)) + 3 * np.eye(20)[np.repeat([0, 1, 2], 40)]
    front = rng.normal(0, 1, (120, 20))
    background = np.hstack([behind, np.zeros_like(front)])
    background[0] = np.nan  # fills the frame
    whole, foreground = np.hstack([behind, front]), np.hstack([np.zeros_like(behind), front])
    found = masked_accuracy(labels, whole, background, foreground, seed=0)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["background"]["balanced_accuracy"] > 0.75
    assert found["background_only"]["balanced_accuracy"] > 0.75
    assert found["foreground"]["balanced_accuracy"] < 0.5
    assert found["foreground_only"]["interval"][0] < 1 / 3 < found["foreground_only"]["interval"][1]
    assert (found["whole"]["images"], found["background"]["images"]) == (120, 119)
    assert set(found["background"]["recall"]) == {"a", "b", "c"}
