"""The screen at work while the reviewer decides: refitted in a thread of its own, after every few decisions."""

import threading
import time
from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_matrix

from curate.memory import give_back
from curate.screen import Opinion, Space, Why, explain, graph_of, learn

EVERY = 5  # new decisions after which it learns again
REST = 9  # times as long as it learnt, so that it takes a tenth of one processor at most, however large the data set


class LiveScreen:
    """Verdicts in, opinions out. Call `decided` under one lock; `learnt` is called from the screen's own thread."""

    def __init__(self, space: Space, learnt: Callable[[Opinion], None]) -> None:
        self._space, self._learnt = space, learnt
        self._rejected = np.full(len(space.usable), np.nan)
        self._reasons = np.full(len(space.usable), "", dtype=object)
        self._new = 0
        self._worker: threading.Thread | None = None
        self._opinion: Opinion | None = None
        self._graph: csr_matrix | None = None  # made when it learns first
        self._whys: dict[int, Why] = {}  # of this opinion, by row: a page asks again at each key
        self._ended = threading.Event()

    def decided(self, row: int, rejected: bool | None, reason: str) -> None:
        """Note the verdict in force for a row; None: there is none (any more)."""
        value = np.nan if rejected is None else float(rejected)
        if np.array_equal(self._rejected[row], value, equal_nan=True) and self._reasons[row] == reason:
            return
        self._rejected[row], self._reasons[row] = value, reason
        self._new += 1

    def learn_soon(self) -> None:
        """Begin to learn where enough is new and nothing is being learnt."""
        if self._new < EVERY or (self._worker and self._worker.is_alive()):
            return
        self._worker = threading.Thread(target=self._learn, daemon=True)
        self._worker.start()

    def wait(self) -> None:
        """Until what is being learnt is learnt."""
        if self._worker:
            self._worker.join()

    def close(self) -> None:
        """Learn nothing more."""
        self._ended.set()

    def probability(self, row: int) -> float | None:
        """That the reviewer would reject this image, by the last opinion; None before there is one."""
        return None if self._opinion is None else float(self._opinion.probability[row])

    def why(self, row: int) -> Why | None:
        """Why it thinks so: by what was decided when it was asked first."""
        opinion, whys = self._opinion, self._whys
        if opinion is None or not self._space.usable[row]:
            return None
        if row not in whys:
            others = np.flatnonzero(np.isfinite(self._rejected))
            whys[row] = explain(self._space, opinion, row, others[others != row])
        return whys[row]

    def rejected(self, row: int) -> bool:
        """Whether a decided row was rejected."""
        return bool(self._rejected[row] == 1)

    def _learn(self) -> None:
        """Until nothing is new: decisions come in meanwhile."""
        import sklearn.linear_model  # a second, once, that is not to be rested from
        import sklearn.model_selection  # noqa: F401

        while self._new >= EVERY and not self._ended.is_set():
            self._new = 0
            began = time.thread_time()
            self._graph = graph_of(self._space) if self._graph is None else self._graph
            self._opinion = learn(self._space, self._rejected.copy(), self._reasons.copy(), self._graph)
            self._whys = {}
            if self._opinion is not None:
                self._learnt(self._opinion)
            give_back()
            self._ended.wait(REST * (time.thread_time() - began))
