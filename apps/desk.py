"""What the pages of one server share: the manifest, its queue, the ledger; takes in decisions and says what to show."""

import hashlib
import threading
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from apps.events import Known, decisions_of
from apps.facets import Facets, wanted
from apps.handout import SHARE, Handout
from apps.items import FileNames, Items
from apps.judged import JudgedPairs
from apps.live import LiveScreen
from curate.errors import CurateError
from curate.ledger import Decision, Ledger
from curate.live_queue import ORDERS, STATUSES, LiveQueue, Wanted
from curate.manifest import read_manifest
from curate.recipe import Recipe
from curate.screen import Next, Opinion
from curate.spaces import kept_space
from curate.words import REASONS

if TYPE_CHECKING:
    from apps.copies import Copies

WINDOW = 16  # images that the browser knows ahead
HELD = 4  # of those, the ones that stay in their places when the screen has learnt something
RECENT = 8  # steps that the browser can take back before it asks again
PAGE = 48  # images of a page of the grid
ALL = 2000  # images that one step may decide

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
        self.shared = False  # whether others than the person at this machine may come: each must give a name then
        self.login: list[str] = []  # providers of the login, where one is configured
        self.facets = Facets(self.manifest)
        self._queue = LiveQueue(self.manifest, target, what)
        self.items = Items(self.manifest, root, self._queue.row)
        self.file_names: Mapping[str, str] = FileNames(self.manifest, self._queue.row)
        self._handout = Handout(self.ledger)
        self._judged = JudgedPairs()
        self._known = Known(self.name, self._queue.row, self.labels, self._find, self._batch, self._queue.judged_since)
        self._copies: Copies | None = None
        space = kept_space(root, self.manifest["image_id"])
        self._screen = LiveScreen(space, self._rerank) if space else None
        self._shown: dict[str, tuple[Any, list[int]]] = {}  # reviewer -> what was asked for, the rows shown first
        self._held: dict[str, tuple[Any, list[int]]] = {}  # the same when the order changed last
        self._read_up_to = 0
        self._lock = threading.Lock()
        self._catch_up()

    def take(self, events: list[Any], reviewer: str = "") -> dict[str, Any]:
        """Write an outbox of the browser into the ledger: what may be forgotten there, and what may not.

        Args:
            events: oldest first; each as in `apps.events`.
            reviewer: who decided; empty: the one that the server was started for.

        Returns:
            acked: ids that are in the ledger now. refused: id and why, of events that no ledger takes. error: empty,
            or why the rest could not be written; it is to be sent again.
        """
        good: dict[str, Decision] = {}
        taken, refused = [], []
        with self._lock:
            self._catch_up()
            for event in events:
                try:
                    decisions = decisions_of(event, good, reviewer or self.reviewer, self._known)
                    good.update({decision.decision_id: decision for decision in decisions})
                    taken.append(event["id"])
                except CurateError as error:
                    refused.append({"id": event.get("id") if isinstance(event, dict) else None, "why": str(error)})
            try:
                self.ledger.decide(good.values())
            except (CurateError, sa.exc.SQLAlchemyError) as error:
                return {"acked": [], "refused": refused, "error": f"the ledger did not take it: {error}"[:300]}
        return {"acked": list(dict.fromkeys(taken)), "refused": refused, "error": ""}

    def view(self, asked: dict[str, Any], reviewer: str = "") -> dict[str, Any]:
        """What the single view shows: the next images, what can be undone, the counts.

        Args:
            asked: `label`, `status`, `order` as in `Wanted`; `flag`, `source`, `license`, `split` of the facets.
            reviewer: for whom the images are held meanwhile.
        """
        reviewer = reviewer or self.reviewer
        with self._lock:
            self._catch_up()
            want, rows, left = self._rows(asked, reviewer)
            return {
                **self._frame(want, reviewer),
                "window": [self._judged_item(row, i < HELD) for i, row in enumerate(rows)],
                "left": left,
                "elsewhere": left if not rows else 0,  # all that is left is what others look at
            }

    def grid(self, asked: dict[str, Any], reviewer: str = "") -> dict[str, Any]:
        """What the grid shows: a page of images.

        Args:
            asked: as for `view`; `page` from 0; `keys`, image ids that stay where they are until another page is asked
                for; `all`, whether the ids of all that match are wanted, which one step may decide.
            reviewer: who looks.
        """
        reviewer = reviewer or self.reviewer
        with self._lock:
            self._catch_up()
            want = wanted(asked, self.labels)
            found = self._queue.select(want, self.facets.among(asked))
            others = self._handout.others(reviewer) if want.status in ("waiting", None) else {}
            found = found[~np.isin(found, [self._queue.row[i] for i in others if i in self._queue.row])]
            pages = max(1, -(-len(found) // PAGE))
            page = min(max(asked["page"], 0), pages - 1) if isinstance(asked.get("page"), int) else 0
            keys = [k for k in asked.get("keys") or [] if isinstance(k, str) and k in self._queue.row][:PAGE]
            rows = [self._queue.row[k] for k in keys] or found[page * PAGE : (page + 1) * PAGE].tolist()
            rows = self._not_taken(rows, reviewer)
            return {
                **self._frame(want, reviewer),
                "page": page,
                "pages": pages,
                "left": len(found),
                "elsewhere": len(others),
                "all": self._queue.image_ids[found[:ALL]].tolist() if asked.get("all") else [],
                "tiles": [self._tile(reviewer, row) for row in rows],
            }

    def introduction(self) -> dict[str, Any]:
        """What a page must know before it says who sits there and what is wanted."""
        choices = {"status": [*STATUSES, "all"], **self.facets.choices(), "order": list(ORDERS)}
        return {**self.words(), "choices": choices}

    def copies(self, asked: dict[str, Any], reviewer: str = "") -> dict[str, Any]:
        """All that the page Duplicates shows; `asked` as in `Copies.page`. The first call reads what dedup found."""
        from apps.copies import Copies, facts_of  # with OpenCV, which the other pages do without

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
            **self.words(),
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

    def waiting(self) -> list[str]:
        """The images that wait for a decision, in the order in which they are shown at first."""
        with self._lock:
            return self._queue.waiting(None, len(self._queue.row))

    def store_of(self, reviewer: str) -> str:
        """Names the outbox that a reviewer's browser keeps for this manifest and ledger."""
        whose = f"{reviewer}\0{self.path.resolve()}\0{self.ledger.where}"
        return hashlib.sha256(whose.encode()).hexdigest()[:16]

    def close(self) -> None:
        """Learn nothing more, and give the ledger's connections back."""
        if self._screen:
            self._screen.close()
        self.ledger.close()

    def _rows(self, asked: dict[str, Any], reviewer: str) -> tuple[Wanted, list[int], int]:
        """The next rows for a reviewer, held for nobody else; and how many there are in all."""
        want, among = wanted(asked, self.labels), self.facets.among(asked)
        found = self._queue.select(want, among)
        if want.status != "waiting":
            return want, self._not_taken(found[:WINDOW].tolist(), reviewer), len(found)
        signature = (want, *(asked.get(facet) for facet in self.facets.choices()))
        asked_before, held = self._held.get(reviewer, (None, []))
        for _ in range(3):
            kept = held if asked_before == signature else []
            first = [row for row in kept if (found == row).any() and not self._queue.set_aside(row)]
            rest = (row for row in found if row not in first)
            queue = (self._queue.image_ids[row] for row in chain(first, rest))
            image_ids, news = self._handout.take(queue, reviewer, WINDOW, len(found))
            if not news:
                break
            self._catch_up()
            found = self._queue.select(want, among)
        rows = [self._queue.row[image_id] for image_id in image_ids]
        self._shown[reviewer] = (signature, rows[:HELD])
        return want, rows, len(found)

    def _not_taken(self, rows: list[int], reviewer: str) -> list[int]:
        """The rows of a page without those that another took in this moment; what waits is held from now on."""
        waiting = [self._queue.image_ids[row] for row in rows if self._queue.kind(row)[1] == "waiting"]
        held, _ = self._handout.take(waiting, reviewer, len(waiting), SHARE * len(waiting))  # a page is taken whole
        taken = set(waiting) - set(held)
        return [row for row in rows if self._queue.image_ids[row] not in taken]

    def words(self) -> dict[str, Any]:
        """What every answer to a page says."""
        return {
            "reviewer": self.reviewer,
            "shared": self.shared,
            "login": bool(self.login),
            "labels": self.labels,
            "reasons": list(REASONS),
        }

    def _frame(self, want: Wanted, reviewer: str) -> dict[str, Any]:
        """What both views show beside the images."""
        steps = self._queue.undoable(reviewer, RECENT)
        return {
            **self.words(),
            "store": self.store_of(reviewer),
            "reviewer": reviewer,
            "label": want.label,
            "status": want.status or "all",
            "order": want.order,
            "number": self._queue.number,
            "recent": [self._step(step) for step in steps if step[0].image_id in self._queue.row],
            "counts": self._queue.counts(self.target),
        }

    def _judged_item(self, row: int, explained: bool) -> dict[str, Any]:
        """The facts of an image with what the screen thinks of it by now, and why."""
        item = self.items.of(self._queue.image_ids[row])
        probability = self._screen.probability(row) if self._screen else None
        if self._screen is None or probability is None:
            return item
        item = {**item, "reject_probability": probability, "suspicion": probability}
        why = self._screen.why(row) if explained else None
        if why is not None:
            others = [(self._queue.image_ids[other], self._screen.rejected(other)) for other, _ in why.nearest]
            item["alike"] = [{"thumb": f"/thumb/{other}", "rejected": rejected} for other, rejected in others]
            item["measures"] = [{"measure": name, "speaks": round(value, 2)} for name, value in why.measures]
        return item

    def _tile(self, reviewer: str, row: int) -> dict[str, Any]:
        """What the grid shows of an image."""
        item = self._judged_item(row, False)
        label, status = self._queue.kind(row)
        shown = ("id", "thumb", "img", "heat", "reject_probability", "suspicion", "predicted")
        flags = [flag["measure"] for flag in item["flags"]]
        title = item["provenance"]["title"]
        said = self._said_of_image(reviewer, item["id"])
        return {name: item[name] for name in shown} | {
            "label": label,
            "status": status,
            "flags": flags,
            "title": title,
            "said": said,
        }

    def _rerank(self, opinion: Opinion) -> None:
        """Called from the thread of the screen."""
        orders = self._queue.reranked(opinion.probability)
        with self._lock:
            self._queue.rerank(orders)
            self._held = dict(self._shown)

    def _step(self, step: list[Decision]) -> dict[str, Any]:
        """The last decision of a step stands for all of them."""
        last = step[0]
        return {
            "id": last.decision_id,
            "batch": last.batch,
            "images": len(step),
            "image_id": last.image_id,
            "verdict": last.verdict,
            "reason": last.reason,
            "label": last.label,
            "item": self.items.of(last.image_id),
        }

    def _find(self, decision_id: str) -> Decision | None:
        return self._queue.find(decision_id) or self._judged.find(decision_id)

    def _batch(self, reviewer: str, batch: str) -> list[Decision] | None:
        made = [d for d in self._queue.batch(reviewer, batch) if d.verdict != "undo"]
        return [d for d in made if self._queue.in_force(d)] if made else None

    def _said_of_image(self, reviewer: str, image_id: str) -> dict[str, Any] | None:
        return self._said(reviewer, self._queue.standing(image_id))

    def _said_of_pair(self, reviewer: str, pair: frozenset[str]) -> dict[str, Any] | None:
        return self._said(reviewer, self._judged.standing(pair))

    def _said(self, reviewer: str, decision: Decision | None) -> dict[str, Any] | None:
        if decision is None:
            return None
        return {
            "id": decision.decision_id,
            "image_id": decision.image_id,
            "verdict": decision.verdict,
            "reason": decision.reason,
            "label": decision.label,
            "batch": decision.batch,
            "by": decision.reviewer,
            "mine": decision.reviewer == reviewer,
        }

    def _catch_up(self) -> None:
        for position, decision in self.ledger.since(self._read_up_to):
            if not self._judged.add(position, decision):
                self._queue.add(decision)
                self._teach(decision.image_id)
            self._read_up_to = position
        if self._screen:
            self._screen.learn_soon()

    def _teach(self, image_id: str) -> None:
        if self._screen and image_id in self._queue.row:
            said = self._queue.standing(image_id)
            rejected = None if said is None else said.verdict == "reject"
            self._screen.decided(self._queue.row[image_id], rejected, (said.reason if said else None) or "")


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
