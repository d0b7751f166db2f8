"""What the commands hand to the stages: real sources, the ledger, and the model of `classify`.

The only room that reaches for `classify`, and only when a command needs it: all else works without torch.
"""

import importlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from curate.audit import Heads, audit
from curate.balance import Balanced, balance, undecided
from curate.console import Bars
from curate.dedup import find_copies, mark_duplicates
from curate.ledger import Ledger
from curate.manifest import CurateError
from curate.recipe import Recipe
from curate.scrape import collected, scrape
from curate.split import split


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
    """The backbone that gives embeddings and heatmaps, loaded when it is first needed."""

    def __init__(self, arch: str, weights: str, run: Path | None, root: Path, progress: Bars) -> None:
        models = optional("classify.models", "classify")
        self.backbone = models.load_backbone(arch, weights, run=run)
        self.root, self.progress = root, progress

    def embed(self, manifest: pd.DataFrame) -> np.ndarray:
        """(n, d) float32; rows of NaN for images that do not open."""
        features = optional("classify.features", "classify")
        progress = partial(self.progress, "embeddings")
        return features.embed(manifest, self.root, self.backbone, cache=self.root / "cache", progress=progress)

    def explain(
        self, manifest: pd.DataFrame, heads: Heads, target: np.ndarray, *, only: set[str] | None = None
    ) -> np.ndarray:
        """(n, 56, 56) heatmaps in [0, 1] of the target class by the model that has not seen the image, or NaN.

        With `only`, of these `image_id` alone.
        """
        explain = optional("classify.explain", "classify")
        fold = heads.fold if only is None else np.where(manifest["image_id"].isin(only), heads.fold, -1)
        out = self.root / "cache" / "heatmaps"
        progress = partial(self.progress, "heatmaps")
        return explain.explain_heads(
            manifest, self.root, self.backbone, heads.weights, fold, target, out, progress=progress
        )


class Copies:
    """The verified pairs of a growing table: each image is compared when it is first seen."""

    def __init__(self, manifest: pd.DataFrame, root: Path, progress: Bars) -> None:
        """What `curate dedup` has been through is not compared again: its links stand in the manifest."""
        self.root, self.progress = root, progress
        self.seen = set(manifest["image_id"]) if "duplicate_of" in manifest else set[str]()
        self.pairs = pd.DataFrame()

    def new_of(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """The verified pairs of all images that came since."""
        new = set(manifest["image_id"]) - self.seen
        if new or self.pairs.empty:
            fresh = find_copies(manifest, self.root, new_ids=new, progress=self.progress)
            self.pairs = pd.concat([self.pairs, fresh], ignore_index=True)
            self.seen |= new
        return self.pairs

    def links(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """All links of a marked table, columns `first` and `second`: for the split."""
        marked = [manifest[["image_id", column]].dropna() for column in ("duplicate_of", "label_conflict")]
        return pd.concat([self.pairs, *(link.set_axis(["first", "second"], axis=1) for link in marked)])


def rebalance(
    manifest: pd.DataFrame,
    recipe: Recipe,
    ledger: Ledger,
    model: Model,
    *,
    root: Path,
    target: int,
    unattended: bool,
    jobs: int,
    seed: int,
    progress: Bars,
) -> tuple[Balanced, dict[str, str]]:
    """Run `balance` on the real sources, model and ledger; with the problems that the sources had."""
    standing = ledger.standing()
    copies = Copies(manifest, root, progress)
    problems: dict[str, str] = {}

    def gather(wanted: Mapping[str, int]) -> pd.DataFrame:
        if wanted:
            held = ledger.images(recipe.labels)["label"].value_counts()
            numbers = {label: int(held.get(label, 0)) + n for label, n in wanted.items()}
            problems.update(scrape(recipe, numbers, root=root, ledger=ledger, progress=progress).problems)
        return collected(ledger, recipe.labels)

    def enrich(table: pd.DataFrame) -> pd.DataFrame:
        table = mark_duplicates(table, copies.new_of(table))
        return audit(table, standing, root=root, embed=model.embed, jobs=jobs, seed=seed, progress=progress)

    result = balance(
        manifest, standing, recipe.labels, target=target, unattended=unattended, gather=gather, enrich=enrich
    )
    if not unattended and any(result.fetched.values()):
        waiting = set(undecided(result.manifest)["image_id"])
        result.manifest = audit(
            result.manifest,
            standing,
            root=root,
            embed=model.embed,
            explain=partial(model.explain, only=waiting),
            jobs=jobs,
            seed=seed,
            progress=progress,
        )
    if not result.short or min(result.accepted.values()) > 2:
        result.manifest = split(result.manifest, seed=seed, copies=copies.links(result.manifest))
    return result, problems
