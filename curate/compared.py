"""What was compared: which pictures of a data root were searched for copies of each other, and how pairs turned out.

Kept under `cache/`, so that a search that was killed goes on, and adding a hundred pictures costs the hundred.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from curate.cache import RowCache
from curate.copies import Match, swapped
from curate.files import replacing

VERSION = 1  # goes up when the same two pictures turn out otherwise, or others are compared
log = logging.getLogger("curate")


class Compared:
    """Pictures by the first 16 digits of their sha256."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "cache" / f"copies-{VERSION}"
        self._kept = RowCache(self.folder / "pairs")
        keys = list(self._kept)
        rows = self._kept.take(keys) if keys else np.zeros((0, 0))
        self._outcomes = {key: _match(row) for key, row in zip(keys, rows, strict=True)}
        self._batches = dict(self._read_batches())

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return " ".join(sorted(pair)) in self._outcomes

    def outcome(self, first: str, second: str) -> Match | None:
        """How the two agree; None where they are not the same photograph, or were not looked at."""
        match = self._outcomes.get(" ".join(sorted((first, second))))
        return swapped(match) if match and second < first else match

    def add(self, first: str, second: str, match: Match | None, *, keep: bool) -> None:
        """Take in how a pair turned out; `keep` it for later runs (after the next `flush`, or 256 pairs)."""
        key = " ".join(sorted((first, second)))
        row = _row(swapped(match) if match and second < first else match)
        self._outcomes[key] = _match(row)  # as a later run reads it
        if keep:
            self._kept.append([key], row[None])

    def flush(self) -> None:
        """Write down what was added."""
        self._kept.flush()

    def copies(self, among: set[str]) -> Iterator[tuple[str, str]]:
        """The pairs that are the same photograph, both of them among these pictures."""
        for key, match in self._outcomes.items():
            first, second = key.split(" ")
            if match and first in among and second in among:
                yield first, second

    def searched(self, among: Iterable[str]) -> dict[str, None]:
        """Those of some pictures that were all searched for copies of each other, in the order of the searches.

        Searches at one time, or of other manifests, do not know of each other: the pictures of the largest are told,
        and of those that know it.
        """
        wanted = set(among)
        held = {name: wanted.intersection(pictures) for name, (pictures, _) in self._batches.items()}
        taken: list[str] = []
        for name in sorted(held, key=lambda name: (-len(held[name]), name)):
            if all(other in self._batches[name][1] or name in self._batches[other][1] for other in taken):
                taken.append(name)
        return dict.fromkeys(p for name in sorted(taken) for p in self._batches[name][0] if p in wanted)

    def finish(self, fresh: Iterable[str], among: Iterable[str]) -> None:
        """These pictures have been searched for too, with all of those among which they are."""
        fresh, wanted = list(fresh), set(among)
        knew = [name for name, (pictures, _) in self._batches.items() if wanted.issuperset(pictures)]
        if not fresh:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"searched-{len(self._batches):06d}-{os.urandom(4).hex()}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"pictures": fresh, "knew": knew}))

    def _read_batches(self) -> Iterator[tuple[str, tuple[list[str], set[str]]]]:
        for path in sorted(self.folder.glob("searched-*.json")):
            try:
                batch = json.loads(path.read_text())
                yield path.name, (batch["pictures"], set(batch["knew"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: this part of the cache is damaged, its pictures are compared again: %s", path, error)


def _row(match: Match | None) -> np.ndarray:
    return np.array([match is not None, *(match or [0] * len(Match._fields))], np.float32)


def _match(row: np.ndarray) -> Match | None:
    if not row[0]:
        return None
    values = dict(zip(Match._fields, row[1:].tolist(), strict=True))
    whole = {name: int(values[name]) for name in ("points", "patches", "middle")}
    return Match(**{**values, **whole, "flipped": bool(values["flipped"])})
