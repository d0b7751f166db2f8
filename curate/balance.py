"""Fill every class to its target: apply the decisions, fetch what is missing, screen it, trim the surplus, split.

What was rejected never comes back: its address is in the ledger, its bytes and near-copies are found before a new image
counts. Nothing is dropped: what is too much stays as a spare candidate.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from curate.decide import apply_decisions
from curate.manifest import CurateError

SURE = 0.2  # probability of rejection below which more images are fetched rather than doubtful ones taken
LIMIT = 0.5  # at or above this an image is never taken without a person
YIELD_RANGE = (0.2, 0.9)  # what a new image is expected to be worth, whatever was observed
MAX_ROUNDS = 20
SPARE = "spare"

Gather = Callable[[Mapping[str, int]], pd.DataFrame]
Enrich = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass
class Balanced:
    """What `balance` ended with.

    Attributes:
        manifest: all rows; `accepted` are exactly the images of the balanced set.
        target: images wanted of each class.
        fetched: new images by class, over all rounds.
        waiting: new or undecided images that a person should look at, by class.
        rounds: times the sources were asked.
    """

    manifest: pd.DataFrame
    target: int
    fetched: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    rounds: int = 0

    @property
    def accepted(self) -> dict[str, int]:
        """Images of the balanced set, by class."""
        taken = self.manifest[self.manifest["status"] == "accepted"]
        return {label: int((taken["label"] == label).sum()) for label in self.waiting}

    @property
    def short(self) -> dict[str, int]:
        """Classes below the target -> how many are missing."""
        return {label: self.target - n for label, n in self.accepted.items() if n < self.target}


def balance(
    manifest: pd.DataFrame,
    standing: pd.DataFrame,
    labels: list[str],
    *,
    target: int,
    unattended: bool,
    gather: Gather,
    enrich: Enrich,
) -> Balanced:
    """Hold exactly `target` accepted images in each class, fetching more as long as there is supply.

    Args:
        manifest: audited; with `image_id`, `label`, `status`, `suspicion`.
        standing: `Ledger.standing()`: the decisions in force.
        labels: the classes.
        target: images wanted of each class.
        unattended: take the surest of the undecided images instead of leaving them for a person.
        gather: class -> number of new images to try for; gives the rows of all images held, old ones too.
        enrich: marks copies and judges every row (adds `suspicion`, `reject_probability`, `status` duplicate).

    Raises:
        CurateError: nothing is decided and nothing may be taken unattended.
    """
    if standing.empty and not unattended:
        raise CurateError(
            "no image is accepted yet: decide with `curate review` or `curate decide FILE.csv` first, "
            "or let the tool take the surest ones with --unattended."
        )
    table = enrich(apply_decisions(_with_new_rows(manifest, gather({})), standing))
    result = Balanced(table, target)
    known = set(table["image_id"])
    while result.rounds < MAX_ROUNDS and (wanted := shortage(table, labels, target, unattended)):
        held = len(table)
        table = enrich(apply_decisions(_with_new_rows(table, gather(wanted)), standing))
        result.rounds += 1
        if len(table) == held:
            break
    fresh = table[~table["image_id"].isin(known)]
    result.fetched = {label: int((fresh["label"] == label).sum()) for label in labels}
    if unattended:
        table = take_surest(table, labels, target)
    result.manifest = trim(table, labels, target)
    open_rows = undecided(result.manifest)
    result.waiting = {label: int((open_rows["label"] == label).sum()) for label in labels}
    return result


def undecided(table: pd.DataFrame) -> pd.DataFrame:
    """Candidates that nobody judged and that are no spares."""
    spare = table["reason"].eq(SPARE) if "reason" in table else False
    return table[table["status"].eq("candidate") & ~spare]


def shortage(table: pd.DataFrame, labels: list[str], target: int, unattended: bool) -> dict[str, int]:
    """How many more images to fetch of each class that is not expected to be full: deficit over observed yield.

    Undecided images count as what they are expected to bring: unattended, those that the screen is sure of (doubtful
    ones are taken only when there are no more to fetch); with a person, each by its probability of being kept.
    """
    wanted = {}
    for label in labels:
        mine = table[table["label"] == label]
        doubts = doubt(undecided(mine))
        expected = (doubts < SURE).sum() if unattended else (1 - doubts).sum()
        deficit = target - mine["status"].eq("accepted").sum() - expected
        if deficit > 0:
            wanted[label] = math.ceil(deficit / observed_yield(mine))
    return wanted


def observed_yield(rows: pd.DataFrame) -> float:
    """Share of a class's images that turn out fit, copies and rejections counted, within `YIELD_RANGE`."""
    fit = rows["status"].eq("accepted").sum() + (doubt(undecided(rows)) < LIMIT).sum()
    return float(np.clip(fit / max(len(rows), 1), *YIELD_RANGE))


def doubt(rows: pd.DataFrame) -> pd.Series:
    """Probability that an image would be rejected; its suspicion where the screen knows nothing yet."""
    if "reject_probability" in rows:
        return rows["reject_probability"].fillna(rows["suspicion"])
    return rows["suspicion"]


def take_surest(table: pd.DataFrame, labels: list[str], target: int) -> pd.DataFrame:
    """Accept, class by class, the undecided images least likely to be rejected, until the target is reached."""
    table = table.copy()
    for label in labels:
        mine = table[table["label"] == label]
        missing = target - mine["status"].eq("accepted").sum()
        probability = doubt(undecided(mine))
        surest = probability[probability < LIMIT].sort_values(kind="stable").head(max(missing, 0))
        table.loc[surest.index, "status"] = "accepted"
        table.loc[surest.index, "reason"] = [f"unattended: reject probability {p:.2f}" for p in surest]
        table.loc[surest.index, "reviewer"] = "screen"
    return table


def trim(table: pd.DataFrame, labels: list[str], target: int) -> pd.DataFrame:
    """Turn the most suspicious accepted images beyond the target into spare candidates."""
    table = table.copy()
    for label in labels:
        accepted = table[table["label"].eq(label) & table["status"].eq("accepted")]
        surplus = accepted["suspicion"].sort_values(kind="stable").index[target:]
        table.loc[surplus, "status"] = "candidate"
        table.loc[surplus, "reason"] = SPARE
    return table


def _with_new_rows(table: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    new = held[~held["image_id"].isin(table["image_id"])]
    return pd.concat([table, new], ignore_index=True) if len(new) else table.reset_index(drop=True)
