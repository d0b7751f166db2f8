"""What the pages of one server share: the manifest, its queue, the ledger; takes in decisions and says what to show."""

import hashlib
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from apps.copies import Copies, facts_of
from apps.judged import JudgedPairs
from apps.live import LiveScreen
from apps.pictures import heatmap_name
from curate.errors import CurateError
from curate.ledger import Decision, Ledger
from curate.manifest import read_manifest
from curate.queue import ReviewQueue
from curate.recipe import Recipe
from curate.screen import Next, Opinion
from curate.spaces import kept_space
from curate.words import PAIR_VERDICTS, REASONS

WINDOW = 16  # images that the browser knows ahead
HELD = 4  # of those, the ones that stay in their places when the screen has learnt something
RECENT = 8  # decisions that the browser can take back before it asks again
OVERLAP = 200  # decisions read again each time, so that one committed late by another process is not missed
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FLAG = re.compile(r"(?P<measure>[^=]+)=(?P<value>.*?)\s*(?:\((?P<threshold>.*)\))?")
_PROVENANCE = ("source", "query", "title", "creator", "license", "url", "page_url")
_MODEL = ("predicted", "label_probability", "reject_probability", "suspicion")

_open: list["Desk"] = []


class Desk:
    """One manifest under review; safe to use from the threads of several browser tabs."""

    def __init__(
        self,
        manifest: Path,
        root: Path,
        ledger: str,
        *,
        target: int,
        reviewer: str,
        what: Next | None = None,
        recipe: Recipe | None = None,
        runs: Path = Path("runs"),
    ) -> None:
        """Read the manifest and the decisions so far.

        Args:
            manifest: read once, at the start.
            root: the data root.
            ledger: as `Ledger` takes it.
            target: accepted images wanted of each class.
            reviewer: who decides where a browser does not say who sits there.
            what: comes first, as in `review_queue`.
            recipe: for the pages that collect; None: they say that there is none.
            runs: the folder of trained runs, for the page that identifies.

        Raises:
            CurateError: the manifest or the ledger cannot be read.
        """
        self.path, self.name, self.root, self.target, self.reviewer = manifest, manifest.name, root, target, reviewer
        self.manifest = read_manifest(manifest)
        self.ledger = Ledger(ledger)
        self.recipe, self.runs = recipe, runs
        self.labels = sorted(set(self.manifest["label"]))
        self.file_names = dict(zip(self.manifest["image_id"], self.manifest["file_name"], strict=True))
        self._row = {image_id: row for row, image_id in enumerate(self.manifest["image_id"])}
        self._items: dict[str, dict[str, Any]] = {}
        self._queue = ReviewQueue(self.manifest, target, what)
        self._judged = JudgedPairs()
        self._copies: Copies | None = None
        space = kept_space(root, self.manifest["image_id"])
        self._screen = LiveScreen(space, self._rerank) if space else None
        self._held: list[str] = []
        self._read_up_to = 0
        self._lock = threading.Lock()
        self._catch_up()
        if self._screen:
            self._screen.learn_soon()

    def take(self, events: list[Any], reviewer: str = "") -> dict[str, Any]:
        """Write an outbox of the browser into the ledger: what may be forgotten there, and what may not.

        Args:
            events: oldest first; each with `id` (a UUID), `image_id`, `verdict`, and `reason`, `label`, `other` or
                `undoes`.
            reviewer: who decided; empty: the one that the server was started for.

        Returns:
            acked: ids that are in the ledger now. refused: id and why, of events that no ledger takes. error: empty,
            or why the rest could not be written; it is to be sent again.
        """
        good: dict[str, Decision] = {}
        refused = []
        with self._lock:
            self._catch_up()
            for event in events:
                try:
                    decision = self._decision(event, good, reviewer or self.reviewer)
                    good[decision.decision_id] = decision
                except CurateError as error:
                    refused.append({"id": event.get("id") if isinstance(event, dict) else None, "why": str(error)})
            try:
                self.ledger.decide(good.values())
            except (CurateError, sa.exc.SQLAlchemyError) as error:
                return {"acked": [], "refused": refused, "error": f"the ledger did not take it: {error}"[:300]}
            self._catch_up()
            if self._screen:
                self._screen.learn_soon()
        return {"acked": list(good), "refused": refused, "error": ""}

    def view(self, label: str | None, reviewer: str = "") -> dict[str, Any]:
        """All that the browser shows: the next images of a class (None = of all), what can be undone, the counts."""
        label = label if label in self.labels else None
        reviewer = reviewer or self.reviewer
        with self._lock:
            self._catch_up()
            waiting = self._queue.waiting(label, WINDOW)
            self._held = waiting[:HELD]
            recent = self._queue.undoable(reviewer, RECENT)
            counts = self._queue.counts(self.target)
        return {
            "store": self.store_of(reviewer),
            "reviewer": reviewer,
            "labels": self.labels,
            "reasons": list(REASONS),
            "label": label,
            "window": [self._judged_item(image_id, i < HELD) for i, image_id in enumerate(waiting)],
            "recent": [self._recent(decision) for decision in recent if decision.image_id in self._row],
            "counts": counts,
        }

    def copies(self, asked: dict[str, Any], reviewer: str = "") -> dict[str, Any]:
        """All that the page Duplicates shows; `asked` as in `Copies.page`. The first call reads what dedup found."""
        reviewer = reviewer or self.reviewer
        with self._lock:
            self._catch_up()
            if self._copies is None:
                self._copies = Copies(self.manifest, self.root, self.ledger.judged_pairs())
            judged = self._copies.judged(self._judged.pairs(), partial(self._said_of_image, reviewer))
            page, counts = self._copies.page(asked, judged), self._copies.counts(judged)
            said_of_image, said_of_pair = partial(self._said_of_image, reviewer), partial(self._said_of_pair, reviewer)
            groups = [facts_of(part, said_of_image, said_of_pair) for part in page.parts]
        return {
            "store": f"{self.store_of(reviewer)}-copies",  # an outbox of its own
            "reviewer": reviewer,
            "manifest": self.name,
            "compared": "duplicate_of" in self.manifest,
            "problem": self._copies.problem,
            "kind": page.shown,
            "page": page.number,
            "pages": page.pages,
            "counts": counts,
            "groups": groups,
        }

    def item(self, image_id: str) -> dict[str, Any]:
        """What the page says of one image: text as it is in the manifest, None where missing."""
        if image_id not in self._items:
            row = self.manifest.iloc[self._row[image_id]]
            heat = self.root / heatmap_name(image_id)
            self._items[image_id] = {
                "id": image_id,
                "label": row["label"],
                "width": _plain(row.get("width")),
                "height": _plain(row.get("height")),
                "img": f"/img/{image_id}",
                "thumb": f"/thumb/{image_id}",
                "heat": f"/heat/{image_id}?v={heat.stat().st_mtime_ns}" if heat.is_file() else None,
                "flags": read_flags(_plain(row.get("flags"))),
                **{name: _plain(row.get(name)) for name in _MODEL},
                "provenance": {name: _plain(row.get(name)) for name in _PROVENANCE},
            }
        return self._items[image_id]

    def store_of(self, reviewer: str) -> str:
        """Names the outbox that a reviewer's browser keeps for this manifest and ledger."""
        whose = f"{reviewer}\0{self.path.resolve()}\0{self.ledger.where}"
        return hashlib.sha256(whose.encode()).hexdigest()[:16]

    def close(self) -> None:
        """Give the ledger's connections back."""
        self.ledger.close()

    def _judged_item(self, image_id: str, explained: bool) -> dict[str, Any]:
        """`item` with what the screen thinks of it by now, and why."""
        item, row = self.item(image_id), self._row[image_id]
        probability = self._screen.probability(row) if self._screen else None
        if self._screen is None or probability is None:
            return item
        item = {**item, "reject_probability": probability, "suspicion": probability}
        why = self._screen.why(row) if explained else None
        if why is not None:
            others = [(self.manifest["image_id"].iloc[other], self._screen.rejected(other)) for other, _ in why.nearest]
            item["alike"] = [{"thumb": f"/thumb/{other}", "rejected": rejected} for other, rejected in others]
            item["measures"] = [{"measure": name, "speaks": round(value, 2)} for name, value in why.measures]
        return item

    def _rerank(self, opinion: Opinion) -> None:
        """Called from the thread of the screen."""
        order = self._queue.reranked(opinion.probability)
        with self._lock:
            self._queue.rerank(order, self._held)

    def _recent(self, decision: Decision) -> dict[str, Any]:
        return {
            "id": decision.decision_id,
            "image_id": decision.image_id,
            "verdict": decision.verdict,
            "reason": decision.reason,
            "label": decision.label,
            "item": self.item(decision.image_id),
        }

    def _said_of_image(self, reviewer: str, image_id: str) -> dict[str, Any] | None:
        return self._said(reviewer, self._queue.standing(image_id))

    def _said_of_pair(self, reviewer: str, pair: frozenset[str]) -> dict[str, Any] | None:
        return self._said(reviewer, self._judged.standing(pair))

    def _said(self, reviewer: str, decision: Decision | None) -> dict[str, Any] | None:
        if decision is None:
            return None
        said = {"id": decision.decision_id, "image_id": decision.image_id, "verdict": decision.verdict}
        return {**said, "by": decision.reviewer, "mine": decision.reviewer == reviewer}

    def _decision(self, event: Any, earlier: dict[str, Decision], reviewer: str) -> Decision:
        names = ("id", "image_id", "verdict", "reason", "label", "other", "undoes")
        if not isinstance(event, dict) or not all(isinstance(event.get(n), str | None) for n in names):
            raise CurateError("not a decision.")
        if not _UUID.fullmatch(event.get("id") or ""):
            raise CurateError(f"{event.get('id')!r} is no UUID.")
        image_id, verdict, other, undoes = (event.get(n) for n in ("image_id", "verdict", "other", "undoes"))
        if image_id not in self._row:
            raise CurateError(f"image {image_id!r} is not in {self.name}.")
        if verdict not in ("accept", "reject", "relabel", "skip", *PAIR_VERDICTS, "undo"):
            raise CurateError(f"verdict {verdict!r} is unknown.")
        self._require_known_words(event)
        if verdict == "undo":
            taken_back = earlier.get(undoes or "") or self._queue.find(undoes or "") or self._judged.find(undoes or "")
            if not taken_back or (taken_back.reviewer, taken_back.image_id) != (reviewer, image_id):
                raise CurateError(f"there is no decision {undoes!r} of {reviewer} on this image to undo.")
        return Decision(
            image_id=str(image_id),
            verdict=verdict,
            reason=event.get("reason") if verdict == "reject" else None,
            label=event.get("label") if verdict == "relabel" else None,
            other=other if verdict in PAIR_VERDICTS else None,
            undoes=undoes if verdict == "undo" else None,
            reviewer=reviewer,
            decision_id=event["id"],
        )

    def _require_known_words(self, event: dict[str, Any]) -> None:
        """Refuse a reason, a class or a second image that there is not."""
        verdict, other = event["verdict"], event.get("other")
        if verdict == "reject" and event.get("reason") not in REASONS:
            raise CurateError(f"reason {event.get('reason')!r} is none of {', '.join(REASONS)}.")
        if verdict == "relabel" and event.get("label") not in self.labels:
            raise CurateError(f"class {event.get('label')!r} is none of {', '.join(self.labels)}.")
        if verdict in PAIR_VERDICTS and (other not in self._row or other == event["image_id"]):
            raise CurateError(f"image {other!r} is not another one of {self.name}.")

    def _catch_up(self) -> None:
        for position, decision in self.ledger.since(self._read_up_to - OVERLAP):
            if not self._judged.add(position, decision):
                self._queue.add(decision)
                self._teach(decision.image_id)
            self._read_up_to = max(self._read_up_to, position)

    def _teach(self, image_id: str) -> None:
        if self._screen and image_id in self._row:
            said = self._queue.standing(image_id)
            rejected = None if said is None else said.verdict == "reject"
            self._screen.decided(self._row[image_id], rejected, (said.reason if said else None) or "")


def open_desk(desk: Desk) -> None:
    """Make a desk the one that this process serves."""
    _open[:] = [desk]


def current_desk() -> Desk:
    """The desk that this process serves.

    Raises:
        CurateError: the page was not started by `curate review`.
    """
    if not _open:
        raise CurateError("no manifest is open for review. Start the page with `curate review`, not `streamlit run`.")
    return _open[0]


def read_flags(flags: str | None) -> list[dict[str, str]]:
    """The column `flags` taken apart: "a=1 (2); b=3 (4)" -> measure, value, threshold of each."""
    found = [part.strip() for part in (flags or "").split(";") if part.strip()]
    parts = [(match.groupdict("") if (match := _FLAG.fullmatch(flag)) else {"measure": flag}) for flag in found]
    return [{"measure": "", "value": "", "threshold": "", **part} for part in parts]


def _plain(value: Any) -> Any:
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
