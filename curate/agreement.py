"""A blind second review against the first: which images to judge again, and how far two reviewers agree."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri

from curate.errors import CurateError
from curate.ledger import JUDGEMENTS
from curate.words import REASONS

QUESTIONS = {"keep": ("keep", "reject"), "verdict": JUDGEMENTS, "reason": REASONS}  # what two reviewers can agree on
FEW = 30  # images: of fewer the interval of kappa is a rough guess (tests/test_agreement.py measures its coverage)
_WORDS = ("reviewer", "verdict", "reason", "label")
_SIDES = ("first", "second")


class Kappa(NamedTuple):
    """How far two agree about `n` images.

    Attributes:
        agreed: the share of images on which they agree; None of no image.
        kappa: Cohen's kappa, in [-1, 1]: 0 as by chance, 1 always; None where both put all images into one category,
            because then chance alone would make them agree always.
        low: end of its 95 % interval. high: the other end.
    """

    n: int
    agreed: float | None = None
    kappa: float | None = None
    low: float | None = None
    high: float | None = None


def sample(judged: pd.DataFrame, seed: int, *, share: float | None = None, number: int | None = None) -> list[str]:
    """Images for a second look, of each class and verdict in proportion, and of each at least one if it can be.

    Images are drawn by a hash of seed and `image_id`: whoever asks gets the same ones, and a larger sample holds the
    smaller one. (That is Adams' method of apportionment: it never takes a seat away when there are more seats.) What is
    judged meanwhile may move the border of the sample by a few images.

    Args:
        judged: one row an image, with `image_id`, `label` (its class) and `verdict`.
        seed: another one draws other images.
        share: in (0, 1], of each class and verdict, rounded up.
        number: of images, of all together; give one of the two.

    Returns:
        `image_id`s in the order of the hash, which says nothing of class or verdict.

    Raises:
        CurateError: both or none of share and number, or one out of its range.
    """
    if (share is None) == (number is None):
        raise CurateError("a sample is a share of the images or a number of them: give one of the two.")
    if (share is not None and not 0 < share <= 1) or (number is not None and number < 1):
        raise CurateError(f"a share is above 0 and at most 1, a number at least 1; found {share or number}.")
    drawn = judged[["image_id", "label", "verdict"]].assign(draw=[_draw(seed, i) for i in judged["image_id"]])
    drawn = drawn.sort_values("draw", kind="stable")
    stratum = drawn.groupby(["label", "verdict"], sort=False)["draw"]
    drawn["place"] = stratum.cumcount() / stratum.transform("size")  # in at every share above this one
    if share is not None:
        drawn = drawn[drawn["place"] < share]
    else:
        drawn = drawn.sort_values("place", kind="stable").head(number).sort_values("draw", kind="stable")
    return drawn["image_id"].tolist()


def in_force(history: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Ledger.history()` that judge an image and were not taken back, oldest first."""
    undone = set(history.loc[history["verdict"] == "undo", "undoes"])
    return history[history["verdict"].isin(JUDGEMENTS) & ~history["decision_id"].isin(undone)]


def compare(history: pd.DataFrame, opinions: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Each second opinion beside the decision that was in force when it was given.

    What is decided about an image after that settles it, and does not make the two agree: else agreement would grow by
    being looked at. A decision that was taken back is compared with nothing.

    Args:
        history: `Ledger.history()`.
        opinions: `Ledger.standing_opinions()`; `other` of each is the `decision_id` that it is compared with.
        labels: class by `image_id`; other images are left out.

    Returns:
        `image_id`, `class`, `first_` and `second_` `reviewer`, `verdict`, `reason`, `label`, and `settled`: whether the
        image was decided anew since.
    """
    first = in_force(history)
    latest = first.drop_duplicates("image_id", keep="last").set_index("image_id")["decision_id"]
    keys = ["image_id", "decision_id"]
    second = opinions[opinions["verdict"].isin(JUDGEMENTS) & opinions["image_id"].isin(labels)]
    second = second[["image_id", "other", *_WORDS]].rename(columns={"other": "decision_id"})
    pairs = second.merge(first[[*keys, *_WORDS]], on=keys, suffixes=("_second", "_first"))
    table = pairs[["image_id"]].assign(**{"class": pairs["image_id"].map(labels)})
    for which in _SIDES:
        table = table.assign(**{f"{which}_{name}": pairs[f"{name}_{which}"] for name in _WORDS})
    return table.assign(settled=(pairs["decision_id"] != pairs["image_id"].map(latest)).astype(bool))


def differs(pairs: pd.DataFrame) -> pd.Series:
    """Whether a pair of `compare` would leave the data set different: another verdict, or another class to move to."""
    both_move = (pairs["first_verdict"] == "relabel") & (pairs["second_verdict"] == "relabel")
    moved_apart = both_move & (pairs["first_label"] != pairs["second_label"])
    return (pairs["first_verdict"] != pairs["second_verdict"]) | moved_apart


def agreement(pairs: pd.DataFrame) -> pd.DataFrame:
    """Agreement of all, of each class and of each two reviewers, on each of QUESTIONS.

    keep: accept and relabel against reject. verdict: accept, reject or relabel. reason: of what both rejected.

    Args:
        pairs: of `compare`.

    Returns:
        `scope` (all, class, reviewers), `name`, `question`, the columns of `Kappa`, and `note`: what to keep in mind.
        Of all and of a class only pairs of two persons count; who judged twice has a line among the reviewers.
    """
    rows = []
    for scope, name, part in _parts(pairs):
        for question in QUESTIONS:
            found = cohen_kappa(_counts(part, question))
            rows.append({"scope": scope, "name": name, "question": question, **found._asdict(), "note": _note(found)})
    columns = ["scope", "name", "question", *Kappa._fields, "note"]
    floats = dict.fromkeys(("agreed", "kappa", "low", "high"), "float64")
    return pd.DataFrame(rows, columns=columns).astype(floats)


def cohen_kappa(counts: np.ndarray) -> Kappa:
    """Cohen's kappa of a table of counts: rows what the first said, columns what the second said: (k, k).

    Cohen, "A coefficient of agreement for nominal scales", 1960. Interval: kappa +- 1.96 standard errors, by Fleiss,
    Cohen & Everitt, "Large sample standard errors of kappa and weighted kappa", Psychological Bulletin 72, 1969. That
    error is 0 where all agree; the interval then begins where that of the share of agreement does for so many images
    (Clopper & Pearson, 1934), at the same agreement by chance.
    """
    n = int(counts.sum())
    if n == 0:
        return Kappa(0)
    p = counts / n
    first, second, same = p.sum(axis=1), p.sum(axis=0), np.diag(p)
    agreed, chance = float(np.trace(counts) / n), float(first @ second)
    if math.isclose(chance, 1):
        return Kappa(n, agreed)
    kappa = (agreed - chance) / (1 - chance)
    if agreed == 1:
        return Kappa(n, agreed, 1.0, (0.025 ** (1 / n) - chance) / (1 - chance), 1.0)
    apart = p * (second[:, None] + first[None, :]) ** 2  # p_.i + p_j. of cell (i, j)
    variance = (same * (1 - (first + second) * (1 - kappa)) ** 2).sum()
    variance += (1 - kappa) ** 2 * (apart.sum() - np.trace(apart)) - (kappa - chance * (1 - kappa)) ** 2
    reach = float(ndtri(0.975)) * math.sqrt(max(variance, 0) / n) / (1 - chance)
    return Kappa(n, agreed, kappa, max(kappa - reach, -1.0), min(kappa + reach, 1.0))


def _draw(seed: int, image_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{image_id}".encode()).digest()[:8])


def _parts(pairs: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Scope, name and pairs; of two reviewers the one who comes first in the alphabet is the first of each pair."""
    two = pairs[pairs["first_reviewer"] != pairs["second_reviewer"]]
    yield "all", "all", two
    for name, part in two.groupby("class"):
        yield "class", str(name), part
    for (one, other), part in _by_name(pairs).groupby(["first_reviewer", "second_reviewer"]):
        yield "reviewers", f"{one}, twice" if one == other else f"{one} and {other}", part


def _by_name(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs turned round where the second reviewer comes first in the alphabet."""
    other_side = {f"{one}_{word}": f"{two}_{word}" for word in _WORDS for one, two in (_SIDES, _SIDES[::-1])}
    turned = pairs.rename(columns=other_side)[pairs.columns]
    return pairs.where(pairs["first_reviewer"] <= pairs["second_reviewer"], turned)


def _counts(pairs: pd.DataFrame, question: str) -> np.ndarray:
    """(k, k) counts for `cohen_kappa`, categories in the order of QUESTIONS."""
    first, second = pairs["first_verdict"], pairs["second_verdict"]
    if question == "keep":
        first, second = (said.where(said == "reject", "keep") for said in (first, second))
    if question == "reason":
        both = (first == "reject") & (second == "reject")
        first, second = pairs.loc[both, "first_reason"], pairs.loc[both, "second_reason"]
    categories = list(QUESTIONS[question])
    rows, columns = (pd.Categorical(said, categories).codes for said in (first, second))
    counts = np.zeros((len(categories), len(categories)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def _note(found: Kappa) -> str:
    if found.n == 0:
        return "no image"
    if found.n < FEW:
        return f"too few: {FEW} images say more"
    return "all in one category: kappa is not defined" if found.kappa is None else ""
