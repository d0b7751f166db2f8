"""What persons said of pairs of images, folded in one decision after the other."""

from collections import defaultdict
from collections.abc import Collection

from curate.ledger import Decision
from curate.words import PAIR_VERDICTS


class JudgedPairs:
    """As `Ledger.judged_pairs`, without reading the whole ledger at each click. For one thread at a time."""

    def __init__(self) -> None:
        self._said: dict[str, Decision] = {}  # by decision_id
        self._of_pair: defaultdict[frozenset[str], dict[str, int]] = defaultdict(dict)  # decision_id -> position
        self._undone: set[str] = set()
        self._standing: dict[frozenset[str], Decision] = {}

    def add(self, position: int, decision: Decision) -> bool:
        """Take in a decision of the ledger, a known one too; whether it is about a pair."""
        if decision.verdict == "undo" and decision.undoes:
            self._undone.add(decision.undoes)
            taken_back = self._said.get(decision.undoes)
            if taken_back:
                self._settle(_pair(taken_back))
            return taken_back is not None
        if decision.verdict not in PAIR_VERDICTS or not decision.other:
            return False
        self._said[decision.decision_id] = decision
        self._of_pair[_pair(decision)][decision.decision_id] = position
        self._settle(_pair(decision))
        return True

    def find(self, decision_id: str) -> Decision | None:
        """The judgement of a pair with this id, in force or not."""
        return self._said.get(decision_id)

    def standing(self, pair: frozenset[str]) -> Decision | None:
        """The judgement in force for two images: the last one that was not taken back."""
        return self._standing.get(pair)

    def pairs(self) -> Collection[frozenset[str]]:
        """The pairs with a judgement in force."""
        return self._standing.keys()

    def _settle(self, pair: frozenset[str]) -> None:
        valid = {position: name for name, position in self._of_pair[pair].items() if name not in self._undone}
        if valid:
            self._standing[pair] = self._said[valid[max(valid)]]
        else:
            self._standing.pop(pair, None)


def _pair(decision: Decision) -> frozenset[str]:
    return frozenset((decision.image_id, str(decision.other)))
