"""Fill every class to its target: apply the decisions, fetch what is missing, screen it, trim the surplus, split.

What was rejected never comes back: its address is in the ledger, its bytes and near-copies are found before a new image
counts, in whatever class. Nothing is dropped: what is too much stays as a spare and is used before anything is fetched.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pandas as pd

from curate.decide import apply_decisions
from curate.diversity import choose_varied
from curate.errors import CurateError

SURE = 0.2  # probability of rejection below which more images are fetched rather than doubtful ones taken
LIMIT = 0.5  # at or above this an image is never taken without a person
YIELD_RANGE = (0.2, 0.9)  # what a new image is expected to be worth, whatever was observed
YIELD_MEMORY = 20  # images that the yield of all earlier ones weighs as much as, against that of the newest
MARGIN = 1.64  # standard deviations: with a person, so many are fetched that 19 of 20 classes are full after one review
MAX_ROUNDS = 20
# Of novelty against probability. On three classes of scraped rock photos (MobileNetV2): of what the screen would take,
# 40 and 70 % kept after 24 draws of 40 decisions a class are 92.9 % fit with 0.1, 92.8 % with 0.2, 93.1 % without. Of
# 90 keepers that a person accepted, 67 and 85 % kept with 0.5 lie about as far apart as a random draw; 12.5 % of them
# are doubtful, of such a draw 17.6 %, without novelty 11.8 %.
NOVELTY_JUDGED = 0.5
NOVELTY_UNJUDGED = 0.1
SPARE = "spare"
SCREEN = "screen"

Gather = Callable[[Mapping[str, int]], pd.DataFrame]
Enrich = Callable[[pd.DataFrame], pd.DataFrame]
Embed = Callable[[pd.DataFrame], np.ndarray]


@dataclass
class Balanced:
    """What `balance` ended with.

    Attributes:
        manifest: all rows; `accepted` are exactly the images of the balanced set.
        target: images wanted of each class.
        fetched: new images by class, over all rounds.
        waiting: new or undecided images that a person should look at, by class.
        expected: how many of those are likely to be accepted, by class.
        rounds: times the sources were asked.
        dry: classes of which the sources had fewer than were asked for.
    """

    manifest: pd.DataFrame
    target: int
    fetched: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    dry: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> dict[str, int]:
        """Images of the balanced set, by class."""
        taken = self.manifest[self.manifest["status"] == "accepted"]
        return {label: int((taken["label"] == label).sum()) for label in self.waiting}

    @property
    def short(self) -> dict[str, int]:
        """Classes below the target -> how many are missing."""
        return {label: self.target - n for label, n in self.accepted.items() if n < self.target}


@dataclass(frozen=True)
class Search:
    """Where one search of a class stands.

    Attributes:
        next_rank: of the first result not seen yet, from 1.
        exhausted: whether it has no more.
    """

    source: str
    query: str
    next_rank: int
    exhausted: bool


@dataclass(frozen=True)
class ClassPlan:
    """What `balance` is about to do for one class.

    Attributes:
        accepted: images in force, those kept as spares among them.
        undecided: images that wait for a person.
        expected: how many of the undecided are likely to be accepted (unattended: taken).
        observed_yield: share of new images that turn out fit.
        ask: images to fetch.
        trimmed: accepted images beyond the target, to be kept as spares.
        pending: candidates offered earlier and not fetched yet: they come first.
        searches: in the order they are asked.
    """

    label: str
    target: int
    accepted: int
    undecided: int
    expected: float
    observed_yield: float
    ask: int
    trimmed: int
    pending: int = 0
    searches: tuple[Search, ...] = ()

    @property
    def missing(self) -> int:
        """Images below the target."""
        return max(self.target - self.accepted, 0)

    @property
    def next_search(self) -> Search | None:
        """The search that is asked first once nothing is pending; None when all are exhausted."""
        return next((search for search in self.searches if not search.exhausted), None)


def balance(
    manifest: pd.DataFrame,
    standing: pd.DataFrame,
    labels: list[str],
    *,
    target: int,
    unattended: bool,
    gather: Gather,
    enrich: Enrich,
    embed: Embed | None = None,
    announce: Callable[[pd.DataFrame], None] | None = None,
) -> Balanced:
    """Hold exactly `target` accepted images in each class, fetching more as long as there is supply.

    A class that brought fewer images than were asked for is not asked for again in this run.

    Args:
        manifest: audited; with `image_id`, `label`, `status`, `suspicion`.
        standing: `Ledger.standing()`: the decisions in force.
        labels: the classes.
        target: images wanted of each class.
        unattended: take the surest of the undecided images instead of leaving them for a person.
        gather: class -> number of new images to try for; gives the rows of all images held, old ones too.
        enrich: marks copies and judges every row (adds `suspicion`, `reject_probability`, `status` duplicate).
        embed: (n, d) embeddings of the rows, so that a surplus is chosen for variety too.
        announce: called with the table before anything is fetched: for `plan`.

    Returns:
        All rows, with `balance_round`: 0, or which balance first saw the image.

    Raises:
        CurateError: nothing is decided and nothing may be taken unattended.
    """
    table = prepare(manifest, standing, unattended=unattended, gather=gather, enrich=enrich)
    if announce:
        announce(table)
    result = Balanced(table, target)
    known = set(table["image_id"])
    asked: set[str] = set()
    while result.rounds < MAX_ROUNDS:
        left = [label for label in labels if label not in result.dry]
        wanted = shortage(table, left, target, unattended)
        urgent = shortage(table, left, target, unattended, margin=MARGIN / 2)
        wanted = {label: n for label, n in wanted.items() if label not in asked or label in urgent}  # no trickle
        if not wanted:
            break
        asked |= set(wanted)
        seen = set(table["image_id"])
        table = _renewed(table, standing, gather(wanted), enrich, _last_round(manifest) + 1)
        result.rounds += 1
        brought = table.loc[~table["image_id"].isin(seen), "label"].value_counts()
        result.dry += [label for label, n in wanted.items() if brought.get(label, 0) < n]
    fresh = table[~table["image_id"].isin(known)]
    result.fetched = {label: int((fresh["label"] == label).sum()) for label in labels}
    _choose(result, table, labels, unattended, embed(table) if embed else None)
    return result


def _choose(
    result: Balanced, table: pd.DataFrame, labels: list[str], unattended: bool, vectors: np.ndarray | None
) -> None:
    """Take, of the images held, those of the balanced set; what waits for a person is counted."""
    if unattended:
        table = take_surest(table, labels, result.target, vectors)
    result.manifest = trim(table, labels, result.target, vectors)
    open_rows = {label: undecided(result.manifest[result.manifest["label"] == label]) for label in labels}
    result.waiting = {label: len(rows) for label, rows in open_rows.items()}
    result.expected = {label: float((1 - doubt(rows)).sum()) for label, rows in open_rows.items()}


def prepare(
    manifest: pd.DataFrame, standing: pd.DataFrame, *, unattended: bool, gather: Gather, enrich: Enrich
) -> pd.DataFrame:
    """The table that a plan is made of: all images held, the decisions applied, copies marked, every row judged.

    Raises:
        CurateError: nothing is decided and nothing may be taken unattended.
    """
    if standing.empty and not unattended:
        raise CurateError(
            "no image is accepted yet: decide with `curate review` or `curate decide FILE.csv` first, "
            "or let the tool take the surest ones with --unattended."
        )
    return _renewed(manifest, standing, gather({}), enrich, _last_round(manifest) + 1)


def plan(
    table: pd.DataFrame,
    labels: list[str],
    *,
    target: int,
    unattended: bool,
    pending: Mapping[str, int],
    searches: Mapping[str, Sequence[Search]],
) -> list[ClassPlan]:
    """What the next round will do, class by class; changes and asks nothing.

    Args:
        table: of `prepare`.
        pending: class -> candidates offered and not fetched yet.
        searches: class -> its searches in the order they are asked.
    """
    ask = shortage(table, labels, target, unattended)
    plans = []
    for label in labels:
        mine = table[table["label"] == label]
        accepted = int(mine["status"].eq("accepted").sum())
        plans.append(
            ClassPlan(
                label,
                target,
                accepted,
                len(undecided(mine)),
                _expected(mine, unattended)[0],
                observed_yield(mine),
                ask.get(label, 0),
                max(accepted - target, 0),
                pending.get(label, 0),
                tuple(searches.get(label, ())),
            )
        )
    return plans


def undecided(table: pd.DataFrame) -> pd.DataFrame:
    """Candidates that nobody judged and that are no spares."""
    spare = table["reason"].eq(SPARE) if "reason" in table else False
    return table[table["status"].eq("candidate") & ~spare]


def shortage(
    table: pd.DataFrame, labels: Iterable[str], target: int, unattended: bool, *, margin: float = MARGIN
) -> dict[str, int]:
    """How many more images to fetch of each class that is not expected to be full: deficit over observed yield.

    Undecided images count as what they are expected to bring: unattended, those that the screen is sure of (doubtful
    ones are taken only when there are no more to fetch); with a person, each by its probability of being kept, and
    `margin` standard deviations more are asked for: the review, which stops when a class is full, need not be repeated.
    No more than the deficit over the least yield wait for a person, however doubtful they look.
    """
    wanted: dict[str, int] = {}
    for label in labels:
        mine = table[table["label"] == label]
        deficit = target - int(mine["status"].eq("accepted").sum())
        if deficit > 0:
            mean, variance = _expected(mine, unattended)
            number = _enough(deficit - mean, variance, observed_yield(mine), 0.0 if unattended else margin)
            most = math.ceil(deficit / YIELD_RANGE[0]) - (0 if unattended else len(undecided(mine)))
            if min(number, most) > 0:
                wanted[label] = min(number, most)
    return wanted


def observed_yield(rows: pd.DataFrame) -> float:
    """Share of a class's images that turn out fit, copies and rejections counted, within `YIELD_RANGE`.

    The images of the last `balance_round` weigh most: what lies deeper in a search is worse than its first page.
    """
    sure = undecided(rows)
    fit = rows["status"].eq("accepted") | rows.index.isin(sure.index[doubt(sure) < LIMIT])
    share = fit.sum() / max(len(rows), 1)
    last = _last_round(rows)
    if last:
        newest = _rounds(rows) == last
        share = (fit[newest].sum() + YIELD_MEMORY * share) / (newest.sum() + YIELD_MEMORY)
    return float(np.clip(share, *YIELD_RANGE))


def doubt(rows: pd.DataFrame) -> pd.Series:
    """Probability that an image would be rejected; its suspicion where the screen knows nothing yet.

    A copy of an image under another class is for a person to settle: at least `LIMIT`.
    """
    known = rows["reject_probability"].fillna(rows["suspicion"]) if "reject_probability" in rows else rows["suspicion"]
    if "label_conflict" not in rows:
        return known
    return known.where(rows["label_conflict"].isna(), np.maximum(known, LIMIT))


def bar_copies(table: pd.DataFrame, links: pd.DataFrame, standing: pd.DataFrame) -> pd.DataFrame:
    """Make every undecided copy of a decided image of another class a duplicate of it: no photograph counts twice.

    So too a copy of a rejected image of its own class that the screen had taken. What a person decided stays.

    Args:
        table: through `mark_duplicates`, with the decisions applied.
        links: verified pairs, columns `first` and `second`: both `image_id`.
        standing: the decisions in force.
    """
    table = table.copy()
    row_of = {image_id: row for row, image_id in zip(table.index, table["image_id"], strict=True)}
    rejected = set(table.loc[table["status"] == "rejected", "image_id"])
    judged = rejected | set(standing.index)
    label_of = dict(zip(table["image_id"], table["label"], strict=True))
    both = pd.concat([links[["first", "second"]], links[["second", "first"]].set_axis(["first", "second"], axis=1)])
    better: dict[str, str] = {}
    for copy, other in both.dropna().itertuples(index=False):
        if copy not in row_of or other not in row_of or copy in judged or other not in judged:
            continue
        if other in rejected or (label_of[copy] != label_of[other] and copy not in better):
            better[copy] = other
    for copy, other in better.items():
        if table.at[row_of[copy], "status"] in ("candidate", "accepted"):
            verdict = "rejected" if other in rejected else "accepted"
            words = f"copy of {other}, which was {verdict} under {label_of[other]}"
            table.loc[row_of[copy], ["status", "duplicate_of", "reason"]] = ["duplicate", other, words]
    return table


def take_surest(
    table: pd.DataFrame, labels: list[str], target: int, embeddings: np.ndarray | None = None
) -> pd.DataFrame:
    """Accept, class by class, the undecided images least likely to be rejected, until the target is reached.

    With (n, d) embeddings, of images about as sure those unlike what is accepted already.
    """
    table = table.copy()
    for label in labels:
        mine = table["label"] == label
        accepted = mine & table["status"].eq("accepted")
        probability = doubt(undecided(table[mine]))
        pool = table.index.isin(probability.index[probability < LIMIT])
        taken = _chosen(table, pool, target - int(accepted.sum()), embeddings, beside=accepted.to_numpy())
        table.loc[taken, "status"] = "accepted"
        table.loc[taken, "reason"] = [f"unattended: reject probability {p:.2f}" for p in probability[taken]]
        table.loc[taken, "reviewer"] = SCREEN
    return table


def trim(table: pd.DataFrame, labels: list[str], target: int, embeddings: np.ndarray | None = None) -> pd.DataFrame:
    """Turn accepted images beyond the target into spare candidates; the least suspicious and most varied ones stay.

    What a person accepted stays before what the screen took. Without (n, d) embeddings the least suspicious stay.
    """
    table = table.copy()
    for label in labels:
        accepted = table["label"].eq(label) & table["status"].eq("accepted")
        screened = accepted & table["reviewer"].eq(SCREEN) if "reviewer" in table else accepted & False
        if accepted.sum() <= target:
            continue
        judged = (accepted & ~screened).to_numpy()
        stays = _chosen(table, judged, target, embeddings, weight=NOVELTY_JUDGED)
        more = _chosen(table, screened.to_numpy(), target - len(stays), embeddings, beside=judged)
        surplus = table.index[accepted].difference(stays.union(more))
        table.loc[surplus, "status"] = "candidate"
        table.loc[surplus, "reason"] = SPARE
    return table


def _chosen(
    table: pd.DataFrame,
    pool: np.ndarray,
    number: int,
    embeddings: np.ndarray | None,
    *,
    weight: float = NOVELTY_UNJUDGED,
    beside: np.ndarray | None = None,
) -> pd.Index:
    """Index of `number` rows of a pool, (n,) bool, that are good and unlike each other and those `beside`."""
    if pool.sum() <= number:
        return table.index[pool]
    quality = 1 - doubt(table[pool]).fillna(0.0).to_numpy(float)
    mine = None if embeddings is None else embeddings[pool]
    others = None if embeddings is None or beside is None else embeddings[beside]
    return table.index[pool][choose_varied(quality, mine, number, weight=weight, beside=others)]


def _expected(mine: pd.DataFrame, unattended: bool) -> tuple[float, float]:
    """How many of a class's undecided images will be accepted: mean and variance.

    Few decisions may mislead about all images of a class alike: m of them tell a share to 1 / (2 sqrt(m)), and half of
    that is taken to remain beside what the screen sees.
    """
    doubts = doubt(undecided(mine)).clip(0.0, 1.0)
    if unattended:
        return float((doubts < SURE).sum()), 0.0
    decided = int(mine["status"].isin(["accepted", "rejected"]).sum())
    alike = (len(doubts) / 4) ** 2 / (decided + 1)
    return float((1 - doubts).sum()), float((doubts * (1 - doubts)).sum()) + alike


def _enough(deficit: float, variance: float, share: float, margin: float) -> int:
    """The least number of new images of which, at this yield, the deficit is made good but for bad luck."""
    return next(
        n for n in count() if n * share - margin * math.sqrt(variance + n * share * (1 - share)) >= deficit - 1e-9
    )


def _renewed(
    table: pd.DataFrame, standing: pd.DataFrame, held: pd.DataFrame, enrich: Enrich, number: int
) -> pd.DataFrame:
    """The table with the images that came since, the decisions applied, and judged again."""
    new = held[~held["image_id"].isin(table["image_id"])]
    table = table.assign(balance_round=_rounds(table).to_numpy())
    if len(new):
        table = pd.concat([table, new.assign(balance_round=number)], ignore_index=True)
    table = enrich(_spares_in_use(apply_decisions(table.reset_index(drop=True), standing), standing))
    taken = table["reviewer"].eq(SCREEN) & table["status"].eq("accepted") & ~table["image_id"].isin(standing.index)
    doubtful = table.index[taken][doubt(table[taken]) >= LIMIT]
    table.loc[doubtful, "status"] = "candidate"
    table.loc[doubtful, ["reason", "reviewer"]] = np.nan
    return table


def _spares_in_use(table: pd.DataFrame, standing: pd.DataFrame) -> pd.DataFrame:
    """Spares of the screen count as accepted again; those of a decision that was taken back are undecided."""
    spare = table["status"].eq("candidate") & table["reason"].eq(SPARE) & ~table["image_id"].isin(standing.index)
    mine = table["reviewer"].eq(SCREEN)
    table.loc[spare & mine, "status"] = "accepted"
    table.loc[spare & mine, "reason"] = "unattended: a spare used again"
    table.loc[spare & ~mine, "reason"] = np.nan
    return table


def _rounds(table: pd.DataFrame) -> pd.Series:
    """`balance_round` of each row, 0 where there was none."""
    if "balance_round" not in table:
        return pd.Series(0, table.index)
    return pd.to_numeric(table["balance_round"]).fillna(0).astype("int64")


def _last_round(table: pd.DataFrame) -> int:
    return int(_rounds(table).max()) if len(table) else 0
