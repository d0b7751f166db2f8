"""The decisions that a browser sends: checked, and made what the ledger holds."""

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from curate.errors import CurateError
from curate.ledger import Decision
from curate.live_queue import JUDGED
from curate.words import PAIR_VERDICTS, REASONS

TEXTS = ("id", "image_id", "verdict", "reason", "label", "other", "undoes", "batch")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Known(NamedTuple):
    """What an event is checked against.

    Attributes:
        manifest: its name, for what is said of a stranger.
        rows: by image_id.
        labels: the classes there are.
        find: a decision by its id.
        batch: the decisions in force of a reviewer that were made in one step, by the step's id.
        judged_since: who else judged an image after a decision of this number (`LiveQueue.number`); empty: nobody.
    """

    manifest: str
    rows: Mapping[str, int]
    labels: list[str]
    find: Callable[[str], Decision | None]
    batch: Callable[[str, str], list[Decision] | None]
    judged_since: Callable[[str, int, str], str] = lambda image_id, number, reviewer: ""


def decisions_of(event: Any, earlier: Mapping[str, Decision], reviewer: str, known: Known) -> list[Decision]:
    """The decisions that an event stands for: one, or the undos of all that were made in one step.

    The same event gives the same decisions, with the same ids, however often it comes.

    Args:
        event: `id` (a UUID), `image_id`, `verdict`, and `reason`, `label`, `other`, `undoes` or `batch`; `seen`, the
            number of the last decision that the browser knew of.
        earlier: decisions of the same outbox, by their ids.
        reviewer: who decides.
        known: of the manifest under review.

    Raises:
        CurateError: it is no decision that a ledger could take.
    """
    if not isinstance(event, dict) or not all(isinstance(event.get(n), str | None) for n in TEXTS):
        raise CurateError("not a decision.")
    if not _UUID.fullmatch(event.get("id") or "") or not _UUID.fullmatch(event.get("batch") or event["id"]):
        raise CurateError(f"{event.get('id')!r} or its batch is no UUID.")
    if taken := known.find(event["id"]):
        return [taken]  # it came before, and its answer was lost
    if event.get("verdict") == "undo" and event.get("batch"):
        return _undo_batch(event, earlier, reviewer, known)
    return [_decision(event, earlier, reviewer, known)]


def _decision(event: dict[str, Any], earlier: Mapping[str, Decision], reviewer: str, known: Known) -> Decision:
    image_id, verdict, other, undoes = (event.get(n) for n in ("image_id", "verdict", "other", "undoes"))
    if image_id not in known.rows:
        raise CurateError(f"image {image_id!r} is not in {known.manifest}.")
    if verdict not in (*JUDGED, "skip", *PAIR_VERDICTS, "undo"):
        raise CurateError(f"verdict {verdict!r} is unknown.")
    _require_known_words(event, known)
    _require_unjudged(event, reviewer, known)
    if verdict == "undo":
        taken_back = earlier.get(undoes or "") or known.find(undoes or "")
        if not taken_back or (taken_back.reviewer, taken_back.image_id) != (reviewer, image_id):
            raise CurateError(f"there is no decision {undoes!r} of {reviewer} on this image to undo.")
    return Decision(
        image_id=str(image_id),
        verdict=verdict,
        reason=event.get("reason") if verdict == "reject" else None,
        label=event.get("label") if verdict == "relabel" else None,
        other=other if verdict in PAIR_VERDICTS else None,
        undoes=undoes if verdict == "undo" else None,
        batch=event.get("batch"),
        reviewer=reviewer,
        decision_id=event["id"],
    )


def _undo_batch(event: dict[str, Any], earlier: Mapping[str, Decision], reviewer: str, known: Known) -> list[Decision]:
    """An undo for each decision of a step that is in force."""
    batch = event["batch"]
    made = known.batch(reviewer, batch)
    coming = [d for d in earlier.values() if d.batch == batch and d.verdict != "undo" and d.reviewer == reviewer]
    if made is None and not coming:
        raise CurateError(f"there is no step {batch!r} of {reviewer} to undo.")
    step = {decision.decision_id: decision for decision in [*(made or []), *coming]}
    return [
        Decision(
            image_id=decision.image_id,
            verdict="undo",
            undoes=decision.decision_id,
            reviewer=reviewer,
            decision_id=str(uuid.uuid5(uuid.UUID(event["id"]), decision.decision_id)),
        )
        for decision in step.values()
    ]


def _require_unjudged(event: dict[str, Any], reviewer: str, known: Known) -> None:
    """Refuse a verdict on an image that another judged since the browser heard of it: its reviewer cannot know."""
    seen = event.get("seen")
    if event["verdict"] in JUDGED and isinstance(seen, int):
        other = known.judged_since(event["image_id"], seen, reviewer)
        if other:
            raise CurateError(f"{other} has judged this image meanwhile; look at it again to say otherwise.")


def _require_known_words(event: dict[str, Any], known: Known) -> None:
    """Refuse a reason, a class or a second image that there is not."""
    verdict, other = event["verdict"], event.get("other")
    if verdict == "reject" and event.get("reason") not in REASONS:
        raise CurateError(f"reason {event.get('reason')!r} is none of {', '.join(REASONS)}.")
    if verdict == "relabel" and event.get("label") not in known.labels:
        raise CurateError(f"class {event.get('label')!r} is none of {', '.join(known.labels)}.")
    if verdict in PAIR_VERDICTS and (other not in known.rows or other == event["image_id"]):
        raise CurateError(f"image {other!r} is not another one of {known.manifest}.")
