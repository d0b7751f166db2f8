import logging

import numpy as np
import pandas as pd

from curate.screen import learn, see
from curate.spaces import keep_space, kept_space


def some_space(n: int = 30):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(n, 20))
    embeddings[3] = np.nan
    return see(embeddings, pd.DataFrame({"off_topic": rng.random(n)}))


def test_what_was_kept_teaches_the_same(tmp_path):
    space, ids = some_space(), [f"image{i}" for i in range(30)]
    keep_space(tmp_path, ids, space)
    again = kept_space(tmp_path, ids)
    assert again.measures == space.measures == ("off_topic", "crowd_distance")
    verdicts = np.where(np.arange(30) < 20, np.arange(30) % 2, np.nan)
    reasons = np.full(30, "", dtype=object)
    expected, got = learn(space, verdicts, reasons), learn(again, verdicts, reasons)
    assert np.allclose(expected.probability, got.probability, atol=0.01)


def test_it_belongs_to_these_images_in_this_order(tmp_path):
    ids = [f"image{i}" for i in range(30)]
    keep_space(tmp_path, ids, some_space())
    assert kept_space(tmp_path, ids[::-1]) is None
    assert kept_space(tmp_path / "elsewhere", ids) is None


def test_a_damaged_file_is_named_and_counts_as_none(tmp_path, caplog):
    ids = [f"image{i}" for i in range(30)]
    keep_space(tmp_path, ids, some_space())
    file = next((tmp_path / "cache" / "spaces").iterdir())
    file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert kept_space(tmp_path, ids) is None
    assert file.name in caplog.text
