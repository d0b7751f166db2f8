"""The images that a reviewer judges a second time, blind: which are drawn, which are left, what can be taken back."""

import threading
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd

from curate.agreement import in_force, sample
from curate.ledger import JUDGEMENTS, Decision

RECENT = 8  # opinions that the browser can take back before it asks again
KEPT = 4  # samples, and computed agreements, that are kept of each reviewer
SHARE = 0.1  # of the images, where nothing else is asked for
MOST = 2**53  # whole numbers that a browser can say exactly


class Choice(NamedTuple):
    """Which images to judge again: a share or a number of them, and whether those that one judged oneself are in."""

    share: float | None
    number: int | None
    seed: int
    own: bool


class Judged:
    """What was judged, at one moment, and the samples drawn of it; the same for all reviewers and their threads."""

    def __init__(self, history: pd.DataFrame, labels: Mapping[str, str]) -> None:
        """Take in what was decided.

        Args:
            history: `Ledger.history()`.
            labels: class by `image_id`; other images are not asked for.
        """
        valid = in_force(history)
        latest = valid[valid["image_id"].isin(labels)].drop_duplicates("image_id", keep="last")
        self.position = int(history["position"].max()) if len(history) else 0
        self.valid = set(valid["decision_id"])
        answers = zip(latest["decision_id"].tolist(), latest["reviewer"].tolist(), strict=True)
        self.first = dict(zip(latest["image_id"].tolist(), answers, strict=True))  # decision_id and reviewer
        self._table = latest[["image_id", "verdict"]].assign(label=latest["image_id"].map(labels))
        self._samples: dict[Choice, list[str]] = {}
        self._lock = threading.Lock()

    def drawn(self, choice: Choice) -> list[str]:
        """The sample that is asked for, whoever judged it."""
        key = choice._replace(own=False)
        with self._lock:
            if key not in self._samples:
                keep(self._samples, key, sample(self._table, choice.seed, share=choice.share, number=choice.number))
            return self._samples[key]


class Blind:
    """One reviewer's second look at what was judged. For one thread at a time; reads no ledger."""

    def __init__(self, reviewer: str, judged: Judged, opinions: Iterable[Decision]) -> None:
        """Take in what this reviewer said before: oldest first, undos too."""
        self.reviewer, self._judged = reviewer, judged
        self._others = sum(who != reviewer for _, who in judged.first.values())
        self._mine_of: dict[Choice, dict[str, None]] = {}
        self._said: dict[str, Decision] = {}  # by decision_id, oldest first
        self._undone: set[str] = set()
        self._standing: dict[str, Decision] = {}  # by image_id
        self._done: set[str] = set()
        self._aside: dict[str, None] = {}  # to judge again: what was skipped, the longest skipped first
        for opinion in opinions:
            self.add(opinion)

    def add(self, opinion: Decision) -> None:
        """Fold in an opinion of this reviewer, or its undo; a known one changes nothing."""
        if opinion.decision_id in self._said:
            return
        if opinion.verdict == "undo":
            self._undone.add(opinion.undoes or "")
        else:
            self._said[opinion.decision_id] = opinion
        image_id = opinion.image_id
        self._standing.pop(image_id, None)
        self._done.discard(image_id)
        self._aside.pop(image_id, None)
        here = (said for said in reversed(self._said.values()) if said.image_id == image_id)
        if last := next((said for said in here if said.decision_id not in self._undone), None):
            self._standing[image_id] = last
            if (
                last.verdict in JUDGEMENTS and last.other in self._judged.valid
            ):  # else the first decision was taken back since
                self._done.add(image_id)
            else:
                self._aside[image_id] = None

    def find(self, decision_id: str) -> Decision | None:
        """The opinion with this id, in force or not."""
        return self._said.get(decision_id)

    def answered(self, image_id: str) -> str | None:
        """The decision that an opinion about an image is compared with; None where the image has none."""
        return self._judged.first[image_id][0] if image_id in self._judged.first else None

    def waiting(self, choice: Choice, limit: int | None = None) -> list[str]:
        """What is left to judge of a sample: as it was drawn, then what was skipped, the longest skipped first."""
        mine = self._mine(choice)
        fresh = list(islice((image_id for image_id in mine if image_id not in self._standing), limit))
        return [*fresh, *(image_id for image_id in self._aside if image_id in mine)][:limit]

    def counts(self, choice: Choice) -> dict[str, int]:
        """Images `judged` by anyone, by `others`; in the `sample`, of it `mine` to judge, `done` and `left`."""
        mine = self._mine(choice)
        sizes = {"judged": len(self._judged.first), "others": self._others, "sample": len(self._judged.drawn(choice))}
        done = sum(map(mine.__contains__, self._done))
        return {**sizes, "mine": len(mine), "done": done, "left": len(mine) - done}

    def undoable(self) -> list[Decision]:
        """The last opinions that can be taken back, newest first."""
        valid = (said for said in reversed(self._said.values()) if self._standing.get(said.image_id) is said)
        return list(islice(valid, RECENT))

    def _mine(self, choice: Choice) -> dict[str, None]:
        """The images of a sample that this reviewer may judge, in order."""
        if choice not in self._mine_of:
            drawn = self._judged.drawn(choice)
            theirs = (image_id for image_id in drawn if choice.own or self._judged.first[image_id][1] != self.reviewer)
            keep(self._mine_of, choice, dict.fromkeys(theirs))
        return self._mine_of[choice]


def read_choice(asked: dict[str, Any]) -> Choice:
    """What a browser asks for: `share` in (0, 1], or `number`, of images; `seed`; `own`. A tenth where that is odd."""
    share, number, seed = asked.get("share"), whole(asked.get("number")), whole(asked.get("seed"))
    own = asked.get("own") is True
    if number is not None and number >= 1:
        return Choice(None, number, seed or 0, own)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        share = SHARE
    return Choice(float(share), None, seed or 0, own)


def keep(made: dict[Any, Any], key: Any, value: Any) -> None:
    """Put in, and let the oldest go where there are more than KEPT."""
    while len(made) >= KEPT:
        del made[next(iter(made))]
    made[key] = value


def whole(value: Any) -> int | None:
    """A whole number that JSON said, as a browser can; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST else None
