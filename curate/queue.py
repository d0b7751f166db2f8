"""The review queue: which images wait for a person, in which order, and how far each class is.

Before the first balance the most suspicious images come first, and before the screen has learnt anything those that
teach it most. A balanced manifest knows what each class is short of: there the images come first that fill it with the
fewest decisions.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import pandas as pd

from curate.balance import LIMIT, SPARE, doubt
from curate.decide import apply_decisions
from curate.ledger import Decision
from curate.manifest import require_columns
from curate.screen import Next, next_first
from curate.words import PAIR_VERDICTS

JUDGED = ("accept", "reject", "relabel")


def review_queue(
    manifest: pd.DataFrame,
    standing: pd.DataFrame,
    *,
    label: str | None = None,
    target: int | None = None,
    what: Next | None = None,
) -> pd.DataFrame:
    """The rows that wait for a decision, in the order they are shown; ties stay in order.

    Before any balance the most suspicious come first; a missing suspicion counts as 0. After one (`balance_round`)
    come, the surest good one first: the images that the last balance brought, then older ones, then those of either
    kind that the screen would reject, at last spares. A copy of a decided image of another class does not wait.

    Args:
        manifest: with `image_id`, `label`, `status`; `suspicion` if there was an audit.
        standing: `Ledger.standing()`: the decisions in force, index `image_id`.
        label: of this class only.
        target: images wanted of each class: after a balance, those of full classes come last.
        what: comes first, whether there was a balance or not; see `curate.screen.next_first`.

    Raises:
        CurateError: a column is missing.
    """
    require_columns(manifest, "image_id", "label", "status", made_by="curate scrape")
    barred = [bool(copies & set(standing.index)) for copies in map(_copies(manifest).__getitem__, manifest["image_id"])]
    waits = (manifest["status"] == "candidate") & ~manifest["image_id"].isin(standing.index) & ~np.array(barred, bool)
    if label is not None:
        waits &= manifest["label"] == label
    rows = manifest.loc[[row for row in _order(manifest, what) if waits[row]]]
    if label is None and target is not None and "balance_round" in manifest:
        counts = progress(manifest, standing, target)
        full = rows["label"].isin(counts.index[counts["accepted"] >= target])
        rows = pd.concat([rows[~full], rows[full]])
    return rows


def progress(manifest: pd.DataFrame, standing: pd.DataFrame, target: int) -> pd.DataFrame:
    """Images per class: `accepted`, `rejected`, `waiting`, `target` (int64), index `label` in alphabetical order.

    A relabelled image counts as accepted in the class it was given to; copies that are left out count nowhere.
    """
    require_columns(manifest, "image_id", "label", "status", made_by="curate scrape")
    decided = apply_decisions(manifest, standing)
    labels = sorted(set(manifest["label"]) | set(decided["label"]))
    copies, judged = _copies(manifest), set(standing.index)
    barred = [bool(copies[image_id] & judged) for image_id in decided["image_id"]]
    counted = decided[~(decided["status"].eq("candidate") & np.array(barred, bool))]
    counts = pd.crosstab(counted["label"], counted["status"])
    counts = counts.reindex(index=labels, columns=["accepted", "rejected", "candidate"], fill_value=0)
    counts = counts.rename(columns={"candidate": "waiting"}).rename_axis(index="label", columns=None)
    return counts.assign(target=target).astype("int64")


class ReviewQueue:
    """The queue of one manifest with its decisions folded in one by one, so that a keystroke costs no pass over all.

    Agrees with `review_queue` and `progress`, except that skipped images wait at the end. For one thread at a time.
    """

    def __init__(self, manifest: pd.DataFrame, target: int | None = None, what: Next | None = None) -> None:
        """Order the manifest once; decisions come by `add`. With a target or `what`, see `review_queue`."""
        nothing = pd.DataFrame(columns=Decision._fields).set_index("image_id")
        self._manifest, self._what = manifest, what
        self._order = review_queue(manifest, nothing, what=what)["image_id"].tolist()
        self._ordered = set(self._order)
        self._target = target if "balance_round" in manifest else None
        self._copies = _copies(manifest)
        facts = zip(manifest["image_id"], manifest["label"], manifest["status"], strict=True)
        self._given = {image_id: (label, status) for image_id, label, status in facts}
        self._past: dict[str, Decision] = {}  # by decision_id, oldest first
        self._of_image: dict[str, list[Decision]] = {}
        self._undone: set[str] = set()
        self._skipped: dict[str, Decision] = {}  # by image_id, the longest skipped first
        self._counts: dict[tuple[str, str], int] = {}
        for image_id in self._given:
            self._count(image_id, 1)

    def add(self, decision: Decision) -> None:
        """Fold in one decision of the ledger, in the ledger's order; one that is known already changes nothing."""
        if decision.decision_id in self._past:
            return
        if decision.verdict in PAIR_VERDICTS or (decision.verdict == "undo" and decision.undoes not in self._past):
            return  # of two images, or the undo of that
        touched = [decision.image_id, *self._copies.get(decision.image_id, ())]
        for image_id in touched:
            self._count(image_id, -1)
        self._past[decision.decision_id] = decision
        self._of_image.setdefault(decision.image_id, []).append(decision)
        if decision.verdict == "undo" and decision.undoes:
            self._undone.add(decision.undoes)
        self._skipped.pop(decision.image_id, None)
        if skip := self._latest(decision.image_id, ("skip",)):
            self._skipped[decision.image_id] = skip
        for image_id in touched:
            self._count(image_id, 1)

    def rerank(self, order: Iterable[str], held: Iterable[str]) -> None:
        """Show what waits in another order, that of `reranked`, behind what the browser has loaded already."""
        self._order = list(dict.fromkeys([*held, *order]))

    def reranked(self, probability: np.ndarray) -> list[str]:
        """The order after the screen's new opinion: (n,) probabilities of rejection. Changes nothing."""
        table = self._manifest.assign(reject_probability=probability, suspicion=probability)
        return [image_id for image_id in table.loc[_order(table, self._what), "image_id"] if image_id in self._ordered]

    def find(self, decision_id: str) -> Decision | None:
        """The decision with this id, in force or not."""
        return self._past.get(decision_id)

    def standing(self, image_id: str) -> Decision | None:
        """The accept, reject or relabel in force for an image."""
        return self._latest(image_id, JUDGED)

    def waiting(self, label: str | None, limit: int) -> list[str]:
        """The next `image_id`s of a class (None = of all); those skipped come last, the longest skipped first."""
        skipped = (i for i in self._skipped if i in self._ordered and self._waits(i, label))
        fresh = (i for i in self._order if i not in self._skipped and self._waits(i, label))
        return list(islice(chain(fresh if label else self._short_first(fresh), skipped), limit))

    def undoable(self, reviewer: str, limit: int) -> list[Decision]:
        """What this reviewer can take back, newest first: own decisions in force, and skips of what still waits."""
        mine = (d for d in reversed(self._past.values()) if d.reviewer == reviewer and self._stands(d))
        return list(islice(mine, limit))

    def counts(self, target: int) -> list[dict[str, str | int]]:
        """`progress` as records: label, accepted, rejected, waiting, target."""
        kinds = {"accepted": "accepted", "rejected": "rejected", "waiting": "candidate"}
        labels = sorted({label for label, _ in self._counts})
        return [
            {"label": label, **{k: self._counts.get((label, s), 0) for k, s in kinds.items()}, "target": target}
            for label in labels
        ]

    def _short_first(self, waiting: Iterator[str]) -> Iterator[str]:
        """The images of full classes at the end."""
        full = []
        for image_id in waiting:
            label = self._given[image_id][0]
            if self._target is not None and self._counts.get((label, "accepted"), 0) >= self._target:
                full.append(image_id)
            else:
                yield image_id
        yield from full

    def _waits(self, image_id: str, label: str | None) -> bool:
        return label in (None, self._given[image_id][0]) and not self.standing(image_id) and not self._barred(image_id)

    def _barred(self, image_id: str) -> bool:
        """Whether a copy of it under another class is decided."""
        return any(self.standing(copy) for copy in self._copies.get(image_id, ()))

    def _stands(self, decision: Decision) -> bool:
        in_force = self.standing(decision.image_id) or self._skipped.get(decision.image_id)
        return in_force is decision

    def _latest(self, image_id: str, verdicts: tuple[str, ...]) -> Decision | None:
        mine = reversed(self._of_image.get(image_id, []))
        return next((d for d in mine if d.verdict in verdicts and d.decision_id not in self._undone), None)

    def _count(self, image_id: str, step: int) -> None:
        if image_id not in self._given:
            return
        label, status = self._given[image_id]
        if decision := self.standing(image_id):
            status = "rejected" if decision.verdict == "reject" else "accepted"
            label = decision.label or label if decision.verdict == "relabel" else label
        elif status == "candidate" and self._barred(image_id):
            status = "duplicate"
        self._counts[label, status] = self._counts.get((label, status), 0) + step


def _order(manifest: pd.DataFrame, what: Next | None) -> list:
    """The index of a manifest in the order of review."""
    if "suspicion" not in manifest:
        return list(manifest.index)
    if what or "balance_round" not in manifest:
        first = what or ("informative" if _is_new(manifest) else "suspicious")
        return list(manifest.index[next_first(manifest["suspicion"].fillna(0.0).to_numpy(), first)])
    doubts = doubt(manifest).fillna(1.0)
    rounds = pd.to_numeric(manifest["balance_round"]).fillna(0)
    older = (rounds < max(rounds.max(), 1)).astype(int)
    spare = manifest["reason"].eq(SPARE) if "reason" in manifest else False
    keys = pd.DataFrame({"spare": spare, "unfit": doubts >= LIMIT, "older": older, "doubt": doubts})
    return list(keys.sort_values(list(keys), kind="stable").index)


def _is_new(manifest: pd.DataFrame) -> bool:
    """Whether the screen has learnt nothing yet: the most suspicious images, nearly all bad, would teach it little."""
    return "reject_probability" in manifest and bool(manifest["reject_probability"].isna().all())


def _copies(manifest: pd.DataFrame) -> defaultdict[str, set[str]]:
    """Image -> its copies under other classes."""
    copies: defaultdict[str, set[str]] = defaultdict(set)
    if "label_conflict" in manifest:
        for one, other in manifest[["image_id", "label_conflict"]].dropna().itertuples(index=False):
            copies[one].add(other)
            copies[other].add(one)
    return copies
