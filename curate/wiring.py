"""What the commands hand to the stages: real sources, the ledger, and the model of `classify`.

The only room that reaches for `classify`, and only when a command needs it: all else works without torch.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from curate.artifacts import MEASURES_VERSION
from curate.audit import Explain, Heads, Heatmaps, audit
from curate.balance import Balanced, ClassPlan, Search, balance, bar_copies, plan, prepare, undecided
from curate.collected import collected
from curate.columns import COLUMNS
from curate.console import Bars
from curate.decide import apply_decisions
from curate.dedup import find_copies, find_leaks
from curate.duplicates import links, mark_duplicates, mark_leaks, settled
from curate.errors import CurateError
from curate.ledger import Ledger
from curate.looking import Masks
from curate.recipe import Recipe
from curate.scrape import scrape
from curate.split import split

if TYPE_CHECKING:
    from classify.features import Sight


LEAST_LEFT = 0.05  # share of the frame of which a model is asked what it makes of that part alone


def refuse_unknown_labels(manifest: pd.DataFrame, recipe: Recipe, path: Path) -> None:
    """Raise a `CurateError` that names the first row whose label is no class of the recipe."""
    wrong = np.flatnonzero(~manifest["label"].isin(recipe.labels))
    if len(wrong):
        label = manifest["label"].iloc[wrong[0]]
        raise CurateError(
            f"{path}: row {wrong[0] + 1}, column label: {label!r} is no class of recipe {recipe.name} "
            f"({', '.join(recipe.labels)}). Pass the right --recipe, or relabel the image."
        )


def optional(module: str, extra: str) -> ModuleType:
    """Import a module whose packages come with an extra.

    Raises:
        CurateError: they are not installed; says how to install them.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CurateError(
            f"this needs {error.name}, which is not installed: pip install 'deeprock[{extra}]'"
        ) from error


class Model:
    """The backbone that gives embeddings and heatmaps."""

    def __init__(self, arch: str, weights: str, run: Path | None, root: Path, progress: Bars) -> None:
        models = optional("classify.models", "classify")
        self.backbone = models.load_backbone(arch, weights, run=run)
        self.root, self.progress = root, progress
        self.sight: Sight | None = None

    def watch(self, *, heatmaps: bool) -> "Sight":
        """Takes the pixels that an `audit` decodes; with `heatmaps` the maps are kept that `explain` needs."""
        features = optional("classify.features", "classify")
        self.sight = features.Sight(self.backbone, self.root / "cache", with_maps=heatmaps)
        return self.sight

    def embed(self, manifest: pd.DataFrame) -> np.ndarray:
        """(n, d) float32; rows of NaN for images that do not open."""
        features = optional("classify.features", "classify")
        progress = partial(self.progress, "embeddings")
        return features.embed(
            manifest, self.root, self.backbone, cache=self.root / "cache", sight=self.sight, progress=progress
        )

    def embed_masked(
        self, manifest: pd.DataFrame, masks: Masks | np.ndarray, keep: Literal["background", "foreground"]
    ) -> np.ndarray:
        """(n, d) float32 of the pictures of which only the one part is left, the other painted over.

        Rows of NaN where less than `LEAST_LEFT` of the frame would be left.

        Args:
            masks: the foreground, of `measure_all` or (n, h, w) bool, on the picture stretched to a square.
        """
        features = optional("classify.features", "classify")
        parts = [slice(start, start + 1000) for start in range(0, len(masks), 1000)]
        front = np.concatenate([masks[part].mean(axis=(1, 2)) for part in parts]) if parts else np.zeros(0)
        left = front if keep == "foreground" else 1 - front
        vectors = features.embed_masked(
            manifest,
            self.root,
            self.backbone,
            lambda rows: masks[rows] if keep == "background" else ~masks[rows],
            f"{keep}-{MEASURES_VERSION}",
            cache=self.root / "cache",
            progress=partial(self.progress, f"embeddings, {keep} alone"),
        )
        return np.where(left[:, None] < LEAST_LEFT, np.float32(np.nan), vectors)

    def explain(
        self, manifest: pd.DataFrame, heads: Heads, targets: np.ndarray, *, only: set[str] | None = None
    ) -> Iterator[Heatmaps]:
        """Heatmaps of the target classes (n, 2) by the model that has not seen the image, in parts.

        With `only`, of these `image_id` alone.
        """
        explain = optional("classify.explain", "classify")
        fold = heads.fold if only is None else np.where(manifest["image_id"].isin(only), heads.fold, -1)
        out = self.root / "cache" / "heatmaps"
        progress = partial(self.progress, "heatmaps")
        return explain.explain_heads(
            manifest,
            self.root,
            self.backbone,
            heads.weights,
            fold,
            targets,
            out,
            maps=self.sight.maps if self.sight else None,
            progress=progress,
        )


class Other(NamedTuple):
    """A data set that another one must not share images with: its manifest, data root, and name."""

    manifest: pd.DataFrame
    root: Path
    name: str


def deduplicate(
    manifest: pd.DataFrame, root: Path, ledger: Ledger, jobs: int, progress: Bars
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest with its copies marked, by the decisions in force, and the verified pairs.

    What was rejected, in whatever manifest, is a copy to stay away from.
    """
    standing = ledger.standing()
    table = apply_decisions(manifest, standing)
    elsewhere = rejected_elsewhere(ledger, standing, set(manifest["image_id"]))
    everything = pd.concat([table, elsewhere], ignore_index=True) if len(elsewhere) else table
    judged = ledger.judged_pairs()
    pairs = settled(find_copies(everything, root, jobs=jobs, progress=progress), judged)
    marked = mark_duplicates(everything, pairs, judged)
    return marked.iloc[: len(manifest)].set_axis(manifest.index), pairs


def keep_apart(
    manifest: pd.DataFrame, root: Path, other: Other, ledger: Ledger, jobs: int, progress: Bars
) -> tuple[pd.DataFrame, int, int]:
    """The manifest without the images that another one holds too; how many those are; how many could not be read."""
    leaks = find_leaks(manifest, root, other.manifest, other.root, jobs=jobs, progress=progress)
    leaks = settled(leaks, ledger.judged_pairs())
    held = leaks[leaks["second"].notna()]
    unread = leaks.loc[leaks["second"].isna(), "first"].isin(other.manifest["image_id"])
    return mark_leaks(manifest, held, other.name), held["first"].nunique(), int(unread.sum())


def rejected_elsewhere(ledger: Ledger, standing: pd.DataFrame, known: set[str]) -> pd.DataFrame:
    """Rejected images beyond the known ones (of other recipes or licences): copies of them are not wanted either."""
    rejected = standing.index[standing["verdict"] == "reject"].difference(list(known))
    if rejected.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    everything = collected(ledger, sorted(set(ledger.images()["label"])))
    return everything[everything["image_id"].isin(rejected)].assign(status="rejected")


@dataclass
class Loop:
    """What `balance` needs of the real world: the sources, the ledger, the disk, and the model.

    Attributes:
        manifest: audited.
        problems: what was wrong with the answers of a source; such a source is not searched again.
        links: the copies, as the last `enrich` found them.
    """

    manifest: pd.DataFrame
    recipe: Recipe
    ledger: Ledger
    model: Model
    root: Path
    jobs: int
    seed: int
    progress: Bars
    problems: dict[str, str] = field(default_factory=dict)
    links: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["first", "second"]))

    def __post_init__(self) -> None:
        self.standing = self.ledger.standing()
        self.manifest = _without_undone(self.manifest, self.ledger, self.standing)
        known = set(self._held()["image_id"]) | set(self.manifest["image_id"])
        self.elsewhere = rejected_elsewhere(self.ledger, self.standing, known).assign(balance_round=0)

    def gather(self, wanted: Mapping[str, int]) -> pd.DataFrame:
        """Fetch so many more images of each class; all that are held."""
        if wanted:
            held = self._held()["label"].value_counts()
            numbers = {label: int(held.get(label, 0)) + n for label, n in wanted.items()}
            recipe = replace(self.recipe, sources=tuple(s for s in self.recipe.sources if self._useful(s, wanted)))
            found = scrape(recipe, numbers, root=self.root, ledger=self.ledger, progress=self.progress)
            self.problems.update(found.problems)
        return self._held()

    def enrich(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mark the copies, of what was rejected in any class too, and judge every row."""
        table = pd.concat([table, self.elsewhere], ignore_index=True) if len(self.elsewhere) else table
        judged = self.ledger.judged_pairs()
        pairs = settled(find_copies(table, self.root, jobs=self.jobs, progress=self.progress), judged)
        table = mark_duplicates(table, pairs, judged)
        self.links = links(pairs, table, judged)
        table = bar_copies(table, self.links, self.standing)
        table = table[~table["image_id"].isin(self.elsewhere["image_id"])].reset_index(drop=True)
        return self.audit(table)

    def audit(self, table: pd.DataFrame, explain: Explain | None = None) -> pd.DataFrame:
        """`curate audit` of a table; without heatmaps unless `explain` is given."""
        return audit(
            table,
            self.standing,
            root=self.root,
            embed=self.model.embed,
            backbone=self.model.backbone.key,
            explain=explain,
            trunk=self.model.watch(heatmaps=explain is not None),
            jobs=self.jobs,
            seed=self.seed,
            progress=self.progress,
        )

    def plan(self, table: pd.DataFrame, target: int, unattended: bool) -> list[ClassPlan]:
        """What the next round will do, and where each search stands."""
        return plan_round(table, self.recipe, self.ledger, target=target, unattended=unattended)

    def _held(self) -> pd.DataFrame:
        return collected(self.ledger, self.recipe.labels, self.recipe.license)

    def _useful(self, source: str, wanted: Mapping[str, int]) -> bool:
        """Whether a source is searched still, or has candidates that were not fetched yet."""
        return source not in self.problems or any(self.ledger.pending(label, [source], 0, 1) for label in wanted)


def plan_round(
    table: pd.DataFrame, recipe: Recipe, ledger: Ledger, *, target: int, unattended: bool
) -> list[ClassPlan]:
    """What a balance of a table would do, by where each search of a recipe stands; asks no source."""
    searches, pending = {}, {}
    for label in recipe.labels:
        stands = [
            (source, query, ledger.cursor(label, source, query, recipe.license))
            for source in recipe.sources
            for query in recipe.queries(label)
        ]
        searches[label] = [Search(s, q, int(at["offered"]) + 1, bool(at["exhausted"])) for s, q, at in stands]
        pending[label] = len(ledger.pending(label, list(recipe.sources)))
    return plan(table, recipe.labels, target=target, unattended=unattended, pending=pending, searches=searches)


def rebalance(
    loop: Loop, *, target: int, unattended: bool, announce: Callable[[list[ClassPlan]], None] | None = None
) -> Balanced:
    """Run `balance` on the real sources, model and ledger.

    `announce` is called with the plan before anything is fetched.
    """
    model, recipe = loop.model, loop.recipe
    result = balance(
        loop.manifest,
        loop.standing,
        recipe.labels,
        target=target,
        unattended=unattended,
        gather=loop.gather,
        enrich=loop.enrich,
        embed=model.embed,
        announce=(lambda table: announce(loop.plan(table, target, unattended))) if announce else None,
    )
    unexplained = _unexplained(result.manifest, set(result.short))
    if not unattended and unexplained:
        result.manifest = loop.audit(result.manifest, partial(model.explain, only=unexplained))
    if not result.short or min(result.accepted.values()) > 2:
        result.manifest = split(result.manifest, seed=loop.seed, copies=loop.links)
    return result


def planned(loop: Loop, *, target: int, unattended: bool) -> list[ClassPlan]:
    """The plan that `rebalance` would announce. Asks no source, writes no manifest, image or ledger row.

    What is measured of images that no audit has seen goes into the cache.
    """
    table = prepare(loop.manifest, loop.standing, unattended=unattended, gather=loop.gather, enrich=loop.enrich)
    return loop.plan(table, target, unattended)


def _unexplained(table: pd.DataFrame, labels: set[str]) -> set[str]:
    """Images of these classes that a balance brought, that wait for a person, and that have no heatmap yet."""
    waiting = undecided(table[table["label"].isin(labels) & (table["balance_round"] > 0)])
    if "cam_background_energy" in waiting:
        waiting = waiting[waiting["cam_background_energy"].isna()]
    return set(waiting["image_id"])


def _without_undone(manifest: pd.DataFrame, ledger: Ledger, standing: pd.DataFrame) -> pd.DataFrame:
    """The manifest in which images whose decision was taken back wait again, under the class they were searched for."""
    history = ledger.history()
    judged = set(history.loc[history["verdict"].isin(["accept", "reject", "relabel"]), "image_id"])
    undone = manifest["image_id"].isin(judged - set(standing.index)) & manifest["status"].isin(["accepted", "rejected"])
    if not undone.any():
        return manifest
    table = manifest.copy()
    held = ledger.images()
    searched = dict(zip(held["sha256"].str[:16], held["label"], strict=True))
    table.loc[undone, "label"] = [
        searched.get(i, label) for i, label in table.loc[undone, ["image_id", "label"]].itertuples(index=False)
    ]
    table.loc[undone, "status"] = "candidate"
    empty = [column for column in ("reason", "reviewer", "reviewed_at") if column in table]
    table.loc[undone, empty] = np.nan
    return table
