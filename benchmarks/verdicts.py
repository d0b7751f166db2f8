"""Photos with an expert's verdicts: where they lie, what the screen sees of them, a reviewer who goes by the verdicts.

Where the weights that come with DeepRock were fitted on photos of these very classes, each class is measured by weights
fitted on the others, so that no class is judged by weights that have seen it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.artifacts import held_out_concepts, held_out_scores, read_photos, shipped_scores
from curate.concepts import COLUMN_OF, concept_scores
from curate.cue_weights import FITTED_ON
from curate.screen import MEASURES, Next, Opinion, Space, learn, next_first, see, suspicion

AT_ONCE = 10  # decisions, then the screen learns
OrderOf = Callable[[np.ndarray], np.ndarray]  # (n,) 1 rejected, 0 accepted, NaN undecided -> rows, the next ones first


class Pool(NamedTuple):
    """Images that wait for a reviewer.

    Attributes:
        space: what the screen sees of them.
        embeddings: (n, d).
        measures: n rows, columns of `curate.screen.MEASURES` and the sides.
        label: (n,) the class that each was searched for.
        bad: (n,) whether the expert rejects it.
        reason: (n,) of a rejection, else "".
    """

    space: Space
    embeddings: np.ndarray
    measures: pd.DataFrame
    label: np.ndarray
    bad: np.ndarray
    reason: np.ndarray


def embed(files: pd.DataFrame, photos: Path, weights: str) -> tuple[np.ndarray, str]:
    """(n, d) MobileNetV2 embeddings, and the key of the backbone."""
    from classify.features import embed
    from classify.models import load_backbone

    with tempfile.TemporaryDirectory() as cache:
        table = files.assign(image_id=[f"{row:016x}" for row in range(len(files))])
        backbone = load_backbone("mobilenet_v2", weights)
        return embed(table, photos, backbone, cache=Path(cache)), backbone.key


def measure(truth: pd.DataFrame, photos: Path, embeddings: np.ndarray, key: str) -> dict[str, pd.DataFrame]:
    """What the screen sees beside the embedding, n rows: "" as the audit gives it, "_pixels" from pixels alone.

    Classes that the weights were fitted on are each judged by weights fitted on the others; new ones as they come.
    """
    read = read_photos(truth.astype(str), photos)
    opened = truth["file_name"].isin(read.truth["file_name"]).to_numpy()
    held_out = set(truth["label"]) <= set(FITTED_ON)
    pixels = held_out_scores(read.truth, read.cues) if held_out else shipped_scores(read.cues)
    concepts = concept_scores(read.cues, embeddings[opened], key)
    if concepts is not None and held_out:
        concepts = held_out_concepts(read.truth, read.cues, embeddings[opened])
    found = {"": pixels} if concepts is None else {"": concepts, "_pixels": pixels}
    sides = [Image.open(photos / name).size for name in read.truth["file_name"]]
    tables = {}
    for name, scores in found.items():
        named = scores.rename(columns=COLUMN_OF)
        named = named.loc[:, ~named.columns.duplicated()]  # of the overlays the joint opinion, which comes first
        table = named[[name for name in MEASURES if name in named]].astype(float)
        table[["width", "height"]] = sides
        tables[name] = table.set_axis(np.flatnonzero(opened)).reindex(range(len(truth)))
    return tables


def pool_of(truth: pd.DataFrame, embeddings: np.ndarray, measures: pd.DataFrame) -> Pool:
    """All arguments have the same n rows."""
    bad = (truth["verdict"] == "reject").to_numpy()
    reason = np.where(bad, truth["reason"], "").astype(object)
    measures = measures.reset_index(drop=True)
    return Pool(see(embeddings, measures), embeddings, measures, truth["label"].to_numpy(), bad, reason)


def judge(pool: Pool, decided: np.ndarray) -> tuple[Opinion | None, np.ndarray]:
    """What the screen learns from decisions, (n,) with NaN where there is none, and the suspicion of each image."""
    opinion = learn(pool.space, decided, np.where(decided == 1, pool.reason, ""))
    return opinion, suspicion(pool.space, opinion, pool.measures)


def decisions_on(pool: Pool, rows: np.ndarray) -> np.ndarray:
    """(n,) the verdict on these rows, NaN on the others."""
    decided = np.full(len(pool.bad), np.nan)
    decided[rows] = pool.bad[rows]
    return decided


def review(pool: Pool, order_of: OrderOf, number: int, target: int | None = None) -> np.ndarray:
    """Rows in the order in which a reviewer decides them.

    Args:
        order_of: asked anew after every `AT_ONCE` decisions.
        number: decisions.
        target: a class with so many accepted images comes last from then on.
    """
    done: list[int] = []
    accepted = dict.fromkeys(pool.label, 0)
    while len(done) < number:
        waiting = [int(row) for row in order_of(decisions_on(pool, np.array(done, int))) if row not in set(done)]
        for _ in range(min(AT_ONCE, number - len(done))):
            wanted = (i for i, row in enumerate(waiting) if target is None or accepted[pool.label[row]] < target)
            row = waiting.pop(next(wanted, 0))
            accepted[pool.label[row]] += not pool.bad[row]
            done.append(row)
    return np.array(done)


def screened(pool: Pool, what: Next) -> OrderOf:
    """The order of the review queue, the screen refitted on all decisions."""

    def order_of(decided: np.ndarray) -> np.ndarray:
        waiting = np.flatnonzero(np.isnan(decided))
        opinion, doubts = judge(pool, decided)
        first: Next = "informative" if opinion is None and what == "suspicious" else what  # as `curate.queue`
        return waiting[next_first(doubts[waiting], first)]

    return order_of
