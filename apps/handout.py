"""Hands out the queue: each reviewer holds the next images for a while, so that no other gets them."""

import time
from collections.abc import Iterable
from itertools import islice

from curate.ledger import Ledger

LEASE = 600.0  # seconds that an image is held; who goes on looking holds it anew
FRESH = 5.0  # seconds after which it is read again what others hold
AHEAD = 3  # windows that are taken at once, so that not every key costs a write
SHARE = 4  # of what waits no more than this part is taken, so that a second reviewer finds work too
LEAST = 4  # images that are taken in any case


class Handout:
    """What one server has handed out to its reviewers; for one thread at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._mine: dict[str, dict[str, float]] = {}  # reviewer -> image_id -> when it is to be held anew
        self._others: dict[str, tuple[float, dict[str, str]]] = {}  # reviewer -> when it was read, image_id -> by whom

    def others(self, reviewer: str) -> dict[str, str]:
        """Image -> the other reviewer who looks at it."""
        read_at, others = self._others.get(reviewer, (-FRESH, {}))
        if time.monotonic() - read_at >= FRESH:
            others = self._ledger.leased_by_others(reviewer)
            self._others[reviewer] = (time.monotonic(), others)
        return others

    def take(self, queue: Iterable[str], reviewer: str, number: int, waiting: int) -> tuple[list[str], bool]:
        """The first images of a queue that a reviewer holds; whether some were taken just now.

        What was taken just now may have been judged before: read the ledger's decisions, then ask again.

        Args:
            queue: image ids.
            reviewer: for whom.
            number: of images at most; fewer where few wait.
            waiting: length of the queue.
        """
        fair = max(LEAST, waiting // SHARE)
        number, ahead = min(number, fair), min(AHEAD * number, fair)
        now, mine = time.monotonic(), self._mine.setdefault(reviewer, {})
        others = self.others(reviewer)
        first = list(islice((image_id for image_id in queue if image_id not in others), ahead))
        window = first[:number]
        if all(mine.get(image_id, 0) > now for image_id in window):
            return window, False
        held = self._ledger.claim(first, reviewer, seconds=LEASE)
        gone = [image_id for image_id in mine if image_id not in first]
        self._ledger.release(gone, reviewer)
        self._mine[reviewer] = dict.fromkeys(held, now + LEASE / 2)
        self._others.pop(reviewer, None)
        return [image_id for image_id in window if image_id in held], True
