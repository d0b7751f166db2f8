"""The review queue: which images wait for a person, in which order, and how far each class is."""

from itertools import islice

import pandas as pd

from curate.decide import apply_decisions
from curate.ledger import Decision
from curate.manifest import require_columns

JUDGED = ("accept", "reject", "relabel")


def review_queue(manifest: pd.DataFrame, standing: pd.DataFrame, *, label: str | None = None) -> pd.DataFrame:
    """The rows that wait for a decision, most suspicious first; a missing suspicion counts as 0, ties stay in order.

    Args:
        manifest: with `image_id`, `label`, `status`; `suspicion` if there was an audit.
        standing: `Ledger.standing()`: the decisions in force, index `image_id`.
        label: of this class only.

    Raises:
        CurateError: a column is missing.
    """
    require_columns(manifest, "image_id", "label", "status", made_by="curate scrape")
    waits = (manifest["status"] == "candidate") & ~manifest["image_id"].isin(standing.index)
    if label is not None:
        waits &= manifest["label"] == label
    rows = manifest[waits]
    if "suspicion" not in rows:
        return rows
    order = rows["suspicion"].fillna(0.0).sort_values(ascending=False, kind="stable").index
    return rows.loc[order]


def progress(manifest: pd.DataFrame, standing: pd.DataFrame, target: int) -> pd.DataFrame:
    """Images per class: `accepted`, `rejected`, `waiting`, `target` (int64), index `label` in alphabetical order.

    A relabelled image counts as accepted in the class it was given to; copies that are left out count nowhere.
    """
    require_columns(manifest, "image_id", "label", "status", made_by="curate scrape")
    decided = apply_decisions(manifest, standing)
    labels = sorted(set(manifest["label"]) | set(decided["label"]))
    counts = pd.crosstab(decided["label"], decided["status"])
    counts = counts.reindex(index=labels, columns=["accepted", "rejected", "candidate"], fill_value=0)
    counts = counts.rename(columns={"candidate": "waiting"}).rename_axis(index="label", columns=None)
    return counts.assign(target=target).astype("int64")


class ReviewQueue:
    """The queue of one manifest with its decisions folded in one by one, so that a keystroke costs no pass over all.

    Agrees with `review_queue` and `progress`, except that skipped images wait at the end. For one thread at a time.
    """

    def __init__(self, manifest: pd.DataFrame) -> None:
        """Order the manifest once; decisions come by `add`."""
        nothing = pd.DataFrame(columns=Decision._fields).set_index("image_id")
        self._order = review_queue(manifest, nothing)["image_id"].tolist()
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
        self._count(decision.image_id, -1)
        self._past[decision.decision_id] = decision
        self._of_image.setdefault(decision.image_id, []).append(decision)
        if decision.verdict == "undo" and decision.undoes:
            self._undone.add(decision.undoes)
        self._skipped.pop(decision.image_id, None)
        if skip := self._latest(decision.image_id, ("skip",)):
            self._skipped[decision.image_id] = skip
        self._count(decision.image_id, 1)

    def find(self, decision_id: str) -> Decision | None:
        """The decision with this id, in force or not."""
        return self._past.get(decision_id)

    def standing(self, image_id: str) -> Decision | None:
        """The accept, reject or relabel in force for an image."""
        return self._latest(image_id, JUDGED)

    def waiting(self, label: str | None, limit: int) -> list[str]:
        """The next `image_id`s of a class (None = of all); those skipped come last, the longest skipped first."""
        mine = (i for i in self._order if label in (None, self._given[i][0]) and not self.standing(i))
        first = list(islice((i for i in mine if i not in self._skipped), limit))
        if len(first) == limit:
            return first
        waits = set(self._order)
        mine = (i for i in self._skipped if i in waits and label in (None, self._given[i][0]) and not self.standing(i))
        return [*first, *islice(mine, limit - len(first))]

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
        self._counts[label, status] = self._counts.get((label, status), 0) + step
