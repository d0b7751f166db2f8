"""The review queue of one manifest with its decisions folded in one by one, so that a keystroke costs no pass over all.

Agrees with `curate.queue`, except that skipped images wait at the end.
"""

from collections import defaultdict
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from curate.ledger import Decision
from curate.manifest import require_columns
from curate.queue import conflicting_copies, review_order
from curate.screen import Next
from curate.words import PAIR_VERDICTS

JUDGED = ("accept", "reject", "relabel")
STATUSES = ("waiting", "accepted", "rejected", "duplicate")
Order = Literal["usual", "suspicious", "informative", "good", "scraped"]
Orders = dict[str, np.ndarray]  # by name: (n,) rows of the manifest
ORDERS: tuple[Order, ...] = ("usual", "suspicious", "informative", "good", "scraped")


class Wanted(NamedTuple):
    """Which images a reviewer asks for.

    Attributes:
        label: of this class; None: of all. A relabelled image is of the class that it was given to.
        status: one of STATUSES; None: whatever became of them.
        order: usual as `curate.queue.review_queue`; scraped as in the manifest; the others as `next_first`.
        since: of judged images, those that were judged no later (`LiveQueue.number`), so that what is judged anew
            makes room for the next one.
    """

    label: str | None = None
    status: str | None = "waiting"
    order: Order = "usual"
    since: int | None = None


class LiveQueue:
    """For one thread at a time."""

    def __init__(self, manifest: pd.DataFrame, target: int | None = None, what: Next | None = None) -> None:
        """Order the manifest once; decisions come by `add`. With a target or `what`, see `review_queue`."""
        require_columns(manifest, "image_id", "label", "status", made_by="curate scrape")
        self._manifest, self._what = manifest.reset_index(drop=True), what
        self._target = target if "balance_round" in manifest else None
        self._copies = conflicting_copies(manifest)
        self.image_ids = manifest["image_id"].to_numpy()
        self.row = {image_id: row for row, image_id in enumerate(self.image_ids)}
        pairs: dict[tuple[str, str], tuple[str, str]] = {}  # few, shared by all rows
        given = zip(manifest["label"], manifest["status"], strict=True)
        self._given = [pairs.setdefault(pair, pair) for pair in given]
        self._past: dict[str, Decision] = {}  # by decision_id, oldest first
        self._number: dict[str, int] = {}
        self._by: defaultdict[str, list[Decision]] = defaultdict(list)  # reviewer -> decisions
        self._of_image: defaultdict[str, list[Decision]] = defaultdict(list)
        self._undone: set[str] = set()
        self._skipped: dict[str, Decision] = {}  # by image_id, the longest skipped first
        self._counts: defaultdict[tuple[str, str], int] = defaultdict(int)  # of label and status
        self._labels: list[str] = []
        self._label = np.zeros(len(manifest), np.int32)  # places in _labels
        self._status = np.zeros(len(manifest), np.int8)  # places in STATUSES
        self._judged_at = np.zeros(len(manifest), np.int64)  # number of the decision in force
        self._set_aside = np.zeros(len(manifest), bool)  # skipped
        for row in range(len(manifest)):
            self._count(row)
        self.rerank(self._orders(self._manifest))

    @property
    def number(self) -> int:
        """Of the last decision."""
        return len(self._past)

    def add(self, decision: Decision) -> None:
        """Fold in one decision of the ledger, in the ledger's order; one that is known already changes nothing."""
        if decision.decision_id in self._past:
            return
        if decision.verdict in PAIR_VERDICTS or (decision.verdict == "undo" and decision.undoes not in self._past):
            return  # of two images, or the undo of that
        image_id = decision.image_id
        self._past[decision.decision_id] = decision
        self._number[decision.decision_id] = len(self._past)
        self._by[decision.reviewer].append(decision)
        self._of_image[image_id].append(decision)
        if decision.verdict == "undo" and decision.undoes:
            self._undone.add(decision.undoes)
        self._skipped.pop(image_id, None)
        if image_id in self.row and (skip := self._latest(image_id, ("skip",))):
            self._skipped[image_id] = skip
        for touched in (image_id, *self._copies.get(image_id, ())):
            self._settle(touched)

    def rerank(self, orders: Orders) -> None:
        """Show what waits in another order, that of `reranked`."""
        self._by_order = orders

    def reranked(self, probability: np.ndarray) -> Orders:
        """The orders after the screen's new opinion: (n,) probabilities of rejection, NaN: unknown. Changes nothing."""
        return self._orders(self._manifest.assign(reject_probability=probability, suspicion=probability))

    def select(self, wanted: Wanted, among: np.ndarray | None = None) -> np.ndarray:
        """The rows that a reviewer asks for, in order; of waiting images those skipped come last.

        Without a class and after a balance, those of full classes come after the others.

        Args:
            wanted: what is asked for.
            among: (n,) bool, the rows that come into question.
        """
        here = np.ones(len(self.row), bool) if among is None else among.copy()
        if wanted.label is not None:
            here &= self._label == (self._labels.index(wanted.label) if wanted.label in self._labels else -1)
        if wanted.status is not None:
            here &= self._status == STATUSES.index(wanted.status)
        if wanted.status != "waiting":
            since = self.number if wanted.since is None else wanted.since
            rows = self._by_order[wanted.order]
            return rows[(here & (self._judged_at <= since))[rows]]
        aside = [row for row in map(self.row.__getitem__, self._skipped) if here[row]]
        here &= ~self._set_aside
        rows = self._by_order[wanted.order]
        rows = rows[here[rows]]
        return np.concatenate([rows if wanted.label else self._short_first(rows), np.array(aside, rows.dtype)])

    def waiting(self, label: str | None, limit: int) -> list[str]:
        """The next `image_id`s of a class (None = of all)."""
        return self.image_ids[self.select(Wanted(label))[:limit]].tolist()

    def find(self, decision_id: str) -> Decision | None:
        """The decision with this id, in force or not."""
        return self._past.get(decision_id)

    def standing(self, image_id: str) -> Decision | None:
        """The accept, reject or relabel in force for an image."""
        return self._latest(image_id, JUDGED)

    def kind(self, row: int) -> tuple[str, str]:
        """Label and status (one of STATUSES) of a row by the decisions so far."""
        return self._labels[self._label[row]], STATUSES[self._status[row]]

    def set_aside(self, row: int) -> bool:
        """Whether an image was skipped."""
        return bool(self._set_aside[row])

    def judged_since(self, image_id: str, number: int, reviewer: str) -> str:
        """Who else's verdict of after a decision of that `number` stands for an image; empty: nobody's."""
        standing = self.standing(image_id)
        if not standing or standing.reviewer == reviewer or self._number[standing.decision_id] <= number:
            return ""
        return standing.reviewer

    def undoable(self, reviewer: str, limit: int) -> list[list[Decision]]:
        """The steps that a reviewer can take back, newest first; a step is one decision, or those of one batch.

        Own decisions in force, and skips of what still waits.
        """
        steps: dict[str, list[Decision]] = {}
        for decision in reversed(self._by[reviewer]):
            if not self._stands(decision):
                continue
            step = decision.batch or decision.decision_id
            if step not in steps and len(steps) == limit:
                break
            steps.setdefault(step, []).append(decision)
        return list(steps.values())

    def batch(self, reviewer: str, batch: str) -> list[Decision]:
        """The decisions that a reviewer made in one step, in force or not."""
        return [decision for decision in self._by[reviewer] if decision.batch == batch]

    def in_force(self, decision: Decision) -> bool:
        """Whether a decision was not taken back."""
        return decision.decision_id not in self._undone

    def counts(self, target: int) -> list[dict[str, str | int]]:
        """`progress` as records: label, accepted, rejected, waiting, target."""
        labels = sorted({label for label, _ in self._counts})
        shown = ("accepted", "rejected", "waiting")
        return [
            {"label": label, **{kind: self._counts.get((label, kind), 0) for kind in shown}, "target": target}
            for label in labels
        ]

    def _orders(self, table: pd.DataFrame) -> Orders:
        def rows(what: Next | None) -> np.ndarray:
            return np.array(review_order(table, what), np.int64)

        scraped = np.arange(len(table))
        by_screen = {what: rows(what) for what in ("suspicious", "informative", "good")}
        return {"usual": rows(self._what), "scraped": scraped, **by_screen}

    def _short_first(self, rows: np.ndarray) -> np.ndarray:
        """The images of full classes at the end."""
        if self._target is None:
            return rows
        full = [n for n, label in enumerate(self._labels) if self._counts[label, "accepted"] >= self._target]
        last = np.isin(self._label[rows], full)
        return np.concatenate([rows[~last], rows[last]])

    def _settle(self, image_id: str) -> None:
        """Bring a row up to date."""
        if image_id not in self.row:
            return
        row = self.row[image_id]
        self._counts[self._labels[self._label[row]], STATUSES[self._status[row]]] -= 1
        self._count(row)
        standing = self.standing(image_id)
        self._judged_at[row] = self._number[standing.decision_id] if standing else 0
        self._set_aside[row] = image_id in self._skipped

    def _count(self, row: int) -> None:
        label, status = self._kind(row)
        if label not in self._labels:
            self._labels.append(label)
        self._label[row], self._status[row] = self._labels.index(label), STATUSES.index(status)
        self._counts[label, status] += 1

    def _kind(self, row: int) -> tuple[str, str]:
        """Label and status by the decisions so far."""
        label, status = self._given[row]
        if decision := self.standing(self.image_ids[row]):
            label = decision.label or label if decision.verdict == "relabel" else label
            return label, "rejected" if decision.verdict == "reject" else "accepted"
        if status == "candidate":
            barred = any(self.standing(copy) for copy in self._copies.get(self.image_ids[row], ()))
            return label, "duplicate" if barred else "waiting"
        return label, status

    def _latest(self, image_id: str, verdicts: tuple[str, ...]) -> Decision | None:
        mine = reversed(self._of_image.get(image_id, []))
        return next((d for d in mine if d.verdict in verdicts and d.decision_id not in self._undone), None)

    def _stands(self, decision: Decision) -> bool:
        in_force = self.standing(decision.image_id) or self._skipped.get(decision.image_id)
        return in_force is decision
