"""What the page Second opinion shows: images to judge blind, how far two reviewers agree, disagreements to settle."""

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import sqlalchemy as sa

from apps.blind import Blind, Judged, keep, read_choice, whole
from apps.desk import Desk
from apps.events import Known, decisions_of
from curate.agreement import FEW, agreement, compare, differs
from curate.errors import CurateError
from curate.ledger import JUDGEMENTS, Decision

WINDOW = 16  # images that the browser knows ahead
LISTED = 50  # disagreements shown at once

_kept: WeakKeyDictionary[Desk, "Opinions"] = WeakKeyDictionary()
_keeping = threading.Lock()


class Agreement:
    """What two reviewers said of the same images, computed once, and what was settled since."""

    def __init__(
        self, history: pd.DataFrame, opinions: pd.DataFrame, labels: Mapping[str, str], hidden: Iterable[str]
    ) -> None:
        """Compare.

        Args:
            history: `Ledger.history()`.
            opinions: `Ledger.standing_opinions()`.
            labels: class by `image_id`.
            hidden: images whose verdicts are not shown, because whoever asks has still to judge them blind.
        """
        pairs = compare(history, opinions, labels)
        self.rows = [_plain_row(row) for row in agreement(pairs).to_dict("records")]
        apart = pairs[differs(pairs) & ~pairs["settled"]]
        to_judge = apart["image_id"].isin(set(hidden))
        self.hidden = int(apart.loc[to_judge, "image_id"].nunique())
        self.images = _most_telling_first(apart[~to_judge])
        self._said = pairs[pairs["image_id"].isin(self.images) & ~pairs["settled"]]
        self.position = int(history["position"].max()) if len(history) else 0

    def disputes(self, since: Iterable[tuple[int, Decision]], reviewer: str, limit: int) -> list[dict[str, Any]]:
        """The disagreements, each with who said what, and how it was settled by the decisions of the ledger since."""
        new = [decision for _, decision in since]
        undone = {decision.undoes for decision in new if decision.verdict == "undo"}
        settled = {d.image_id: d for d in new if d.verdict in JUDGEMENTS and d.decision_id not in undone}
        images = self.images[:limit]
        said: dict[str, list[dict[str, Any]]] = {image_id: [] for image_id in images}
        for pair in self._said[self._said["image_id"].isin(images)].to_dict("records"):
            said[pair["image_id"]].append(pair)
        return [
            {
                "image_id": image_id,
                "said": _statements(said[image_id], reviewer),
                "settled": _settled(settled.get(image_id), reviewer),
            }
            for image_id in images
        ]


class Seat:
    """What is kept of one reviewer: in memory, so that a key reads no history."""

    def __init__(self, reviewer: str) -> None:
        self.reviewer = reviewer
        self.lock = threading.Lock()
        self.draws: set[int] = set()
        self.blind: Blind | None = None
        self.computed: dict[int, Agreement] = {}  # by when it was asked for


class Opinions:
    """The second opinions on one desk; safe to use from the threads of several browser tabs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._labels = dict(zip(desk.manifest["image_id"], desk.manifest["label"], strict=True))
        self._rows = {image_id: row for row, image_id in enumerate(self._labels)}
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._judged: Judged | None = None
        self._reading = threading.Lock()

    def view(self, asked: dict[str, Any], reviewer: str) -> dict[str, Any]:
        """All that the browser shows.

        Nothing of a first verdict, of a model or of where an image came from is in it, but in what `agreed` says of
        images that this reviewer has not to judge blind.

        Args:
            asked: as in `read_choice`; `drawn`: a whole number, another one reads anew what was judged; `part`:
                agreement for that too, with `opened`: another number computes it anew, and `listed`: how many
                disagreements.
            reviewer: who judges again.
        """
        desk, choice, drawn = self._desk, read_choice(asked), whole(asked.get("drawn")) or 0
        part = asked.get("part") if asked.get("part") in ("judge", "agreement") else "choose"
        opened = (whole(asked.get("opened")) or 0) if part == "agreement" else None
        seat = self._seat(reviewer)
        with seat.lock:
            blind = self._blind(seat, drawn)
            return {
                **self._desk.words(),
                "manifest": desk.name,
                "store": f"{desk.store_of(reviewer)}-opinions",  # an outbox of its own
                "reviewer": reviewer,
                "part": part,
                "choice": choice._asdict(),
                "drawn": drawn,
                "counts": blind.counts(choice),
                "window": [self._item(image_id) for image_id in blind.waiting(choice, WINDOW)],
                "recent": [self._recent(opinion) for opinion in blind.undoable() if opinion.image_id in self._rows],
                "agreed": None if opened is None else self._agreed(seat, opened, asked, partial(blind.waiting, choice)),
            }

    def take(self, events: list[Any], reviewer: str) -> dict[str, Any]:
        """Write an outbox: events of kind `opinion` as second opinions, others as decisions; answers as `Desk.take`.

        Args:
            events: as in `Desk.take`, with `kind`; oldest first.
            reviewer: who judged.
        """
        opinions = [event for event in events if isinstance(event, dict) and event.get("kind") == "opinion"]
        decisions = [event for event in events if event not in opinions]
        settled = self._desk.take(decisions, reviewer) if decisions else {"acked": [], "refused": [], "error": ""}
        said = self._take_opinions(opinions, reviewer)
        both = {name: settled[name] + said[name] for name in ("acked", "refused")}
        return {**both, "error": settled["error"] or said["error"]}

    def _take_opinions(self, events: list[dict[str, Any]], reviewer: str) -> dict[str, Any]:
        good: dict[str, Decision] = {}
        taken, refused = [], []
        seat = self._seat(reviewer)
        with seat.lock:
            blind = seat.blind or self._read(seat)
            for event in events:
                try:
                    good.update({o.decision_id: o for o in self._opinions(event, good, blind)})
                    taken.append(event["id"])
                except CurateError as error:
                    refused.append({"id": event.get("id"), "why": str(error)})
            try:
                self._desk.ledger.opine(good.values())
            except (CurateError, sa.exc.SQLAlchemyError) as error:
                return {"acked": [], "refused": refused, "error": f"the ledger did not take it: {error}"[:300]}
            for opinion in good.values():
                blind.add(opinion)
        return {"acked": taken, "refused": refused, "error": ""}

    def _opinions(self, event: dict[str, Any], earlier: dict[str, Decision], blind: Blind) -> list[Decision]:
        """An event checked as a decision is, and with what it is compared with."""
        known = Known(self._desk.name, self._rows, self._desk.labels, blind.find, lambda reviewer, batch: None)
        opinions = decisions_of(event, earlier, blind.reviewer, known)
        return [opinion if opinion.verdict == "undo" else self._compared(opinion, blind) for opinion in opinions]

    def _compared(self, opinion: Decision, blind: Blind) -> Decision:
        if opinion.verdict not in (*JUDGEMENTS, "skip"):
            raise CurateError(f"{opinion.verdict!r} is no second opinion on an image.")
        sent_before = blind.find(opinion.decision_id)
        answered = sent_before.other if sent_before else blind.answered(opinion.image_id)
        if answered is None:
            raise CurateError(f"nobody has judged image {opinion.image_id!r} yet: there is nothing to compare with.")
        return opinion._replace(other=answered)

    def _seat(self, reviewer: str) -> Seat:
        with self._lock:
            return self._seats.setdefault(reviewer, Seat(reviewer))

    def _blind(self, seat: Seat, drawn: int) -> Blind:
        if seat.blind is None or drawn not in seat.draws:
            seat.draws.add(drawn)
            return self._read(seat)
        return seat.blind

    def _read(self, seat: Seat) -> Blind:
        past = self._desk.ledger.opinions()
        mine = past.loc[past["reviewer"] == seat.reviewer, list(Decision._fields)].astype(object)
        said = [Decision(*row) for row in mine.where(mine.notna(), None).itertuples(index=False, name=None)]
        seat.blind = Blind(seat.reviewer, self._judged_by_now(), said)
        return seat.blind

    def _judged_by_now(self) -> Judged:
        """The same for all reviewers as long as nothing is decided."""
        with self._reading:
            if self._judged is None or self._desk.ledger.since(self._judged.position):
                self._judged = Judged(self._desk.ledger.history(), self._labels)
            return self._judged

    def _agreed(
        self, seat: Seat, opened: int, asked: dict[str, Any], unjudged: Callable[[], list[str]]
    ) -> dict[str, Any]:
        ledger = self._desk.ledger
        if opened not in seat.computed:
            found = Agreement(ledger.history(), ledger.standing_opinions(), self._labels, unjudged())
            keep(seat.computed, opened, found)
        found = seat.computed[opened]
        listed = max(whole(asked.get("listed")) or 0, LISTED)
        disputes = found.disputes(ledger.since(found.position), seat.reviewer, listed)
        return {
            "opened": opened,
            "few": FEW,
            "rows": found.rows,
            "total": len(found.images),
            "hidden": found.hidden,
            "disputes": [{**dispute, "item": self._item(dispute["image_id"])} for dispute in disputes],
        }

    def _item(self, image_id: str) -> dict[str, Any]:
        """All that is shown of an image while it is judged blind."""
        item = self._desk.items.of(image_id)
        return {name: item[name] for name in ("id", "label", "width", "height", "img", "thumb")}

    def _recent(self, opinion: Decision) -> dict[str, Any]:
        said = {"id": opinion.decision_id, "item": self._item(opinion.image_id)}
        return {**said, **{name: getattr(opinion, name) for name in ("image_id", "verdict", "reason", "label")}}


def opinions_of(desk: Desk) -> Opinions:
    """The second opinions on a desk, the same for all its browser tabs."""
    with _keeping:
        if desk not in _kept:
            _kept[desk] = Opinions(desk)
        return _kept[desk]


def _most_telling_first(pairs: pd.DataFrame) -> list[str]:
    """The images of pairs: first those that one keeps and another rejects, class by class."""
    rejected = (pairs["first_verdict"] == "reject") != (pairs["second_verdict"] == "reject")
    ordered = pairs.assign(both_keep=~rejected).sort_values(["both_keep", "class", "image_id"], kind="stable")
    return ordered["image_id"].drop_duplicates().tolist()


def _statements(pairs: list[dict[str, Any]], reviewer: str) -> list[dict[str, Any]]:
    """What the first said, and each who judged blind."""
    return [_statement(pairs[0], "first", reviewer), *(_statement(pair, "second", reviewer) for pair in pairs)]


def _statement(pair: dict[str, Any], side: str, reviewer: str) -> dict[str, Any]:
    said = {name: _none(pair[f"{side}_{name}"]) for name in ("verdict", "reason", "label")}
    by = pair[f"{side}_reviewer"]
    return {"side": side, "by": by, "mine": by == reviewer, **said}


def _settled(decision: Decision | None, reviewer: str) -> dict[str, Any] | None:
    if decision is None:
        return None
    said = {name: getattr(decision, name) for name in ("image_id", "verdict", "reason", "label")}
    return {"id": decision.decision_id, "by": decision.reviewer, "mine": decision.reviewer == reviewer, **said}


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _none(value) for name, value in row.items()}


def _none(value: Any) -> Any:
    return None if pd.isna(value) else value
