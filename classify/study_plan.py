"""The plan of a study: which runs answer which of its questions.

A part of the plan answers one question; its arms are what is compared, each a run a seed. A run that several parts need
stands in each of them under the same name, and is trained once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from classify.config import Optimizer, TrainConfig
from classify.data import check_rows, split_rows
from classify.trunk import Freeze
from curate.errors import CurateError

STUDY_ARCHS = ("vgg19_bn", "resnet18", "densenet121")
PRELIMINARY = "resnet18"  # what the study tried random against pretrained weights with
OPTIMIZER_SEEDS = 5
RATES: dict[Optimizer, tuple[float, ...]] = {  # as many for each, about the rate that is usual for it
    "sgd": (0.003, 0.01, 0.03, 0.1),
    "adagrad": (0.001, 0.003, 0.01, 0.03),
    "rmsprop": (0.0001, 0.0003, 0.001, 0.003),
    "adam": (0.0003, 0.001, 0.003, 0.01),
}
RANDOM, PRETRAINED, HEAD = "random weights", "pretrained", "pretrained, head only"
COLOUR, GREY = "trained on colour", "trained on grey"
SCRAPED, BALANCED = "trained as scraped", "trained as curated"
COLUMNS = ("image_id", "sha256", "file_name", "label", "status", "split")  # what a run needs of a manifest


@dataclass(frozen=True)
class StudyConfig:
    """What a study trains; all else is the recipe of `classify.config.TrainConfig`.

    Attributes:
        archs: torchvision classifiers (or "small_cnn"), in the order of the tables.
        epochs: of the runs that train a head only, at most.
        unfrozen_epochs: of the others, at most: what takes most of the time.
        image_size: pixels.
        seeds: of what is compared over seeds.
        test: look at split test too; every look is logged in the run's folder.
        threads: of the processor; None leaves it to torch.
    """

    archs: tuple[str, ...] = STUDY_ARCHS
    epochs: int = 50
    unfrozen_epochs: int = 50
    image_size: int = 224
    seeds: int = 10
    test: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.archs or len(set(self.archs)) < len(self.archs):
            raise CurateError(f"--arch {', '.join(self.archs) or 'none'}: give each architecture once, one at least.")
        if self.seeds < 2:
            raise CurateError(f"--seeds {self.seeds}: with fewer than two nothing is known of their scatter.")


class Start(NamedTuple):
    """The weights that an architecture starts from.

    Attributes:
        weights: as `TrainConfig.weights`; "none" for random ones.
        why_random: "" where they are pretrained.
    """

    weights: str
    why_random: str = ""


class Experiment(NamedTuple):
    """One run: its folder's name, how it trains, and on what."""

    name: str
    config: TrainConfig
    manifest: pd.DataFrame


Arms = dict[str, list[Experiment]]  # what is compared -> its runs, one a seed
Starts = Mapping[str, Start]


def plan(
    config: StudyConfig, starts: Starts, balanced: pd.DataFrame, scraped: pd.DataFrame | None = None
) -> dict[str, Arms]:
    """The parts of the study in the order in which they run.

    Args:
        config: what is asked.
        starts: architecture -> its weights, for all of `config.archs`.
        balanced: the curated manifest, with `split`.
        scraped: the manifest before curation; without it there is no part "curation".

    Returns:
        "preliminary" (Fig. 3), "heads" (Fig. 4, Table 1), "unfrozen" (Fig. 6), "colour", "optimizers", "curation".

    Raises:
        CurateError: a manifest cannot be trained on.
    """
    check_rows(balanced)
    used = balanced[[column for column in COLUMNS if column in balanced]]
    lead = Lead(lead_arch(config.archs, starts), config, starts)
    parts = {
        "preliminary": _preliminary(lead, used),
        "heads": {arch: [_run(arch, "head", config, starts, used)] for arch in config.archs},
        "unfrozen": _unfrozen(config, starts, used),
        "colour": _colour(lead, used),
        "optimizers": _optimizers(lead, used),
    }
    if scraped is not None:
        parts["curation"] = _curation(lead, balanced, scraped)
    return parts


def experiments(parts: dict[str, Arms]) -> list[Experiment]:
    """Every run of the plan once, in order."""
    return list({run.name: run for arms in parts.values() for runs in arms.values() for run in runs}.values())


def lead_arch(archs: tuple[str, ...], starts: Starts) -> str:
    """What is compared over seeds: the study's ResNet18 if it is pretrained, else the first that is, else the first."""
    pretrained = [arch for arch in archs if not starts[arch].why_random]
    return PRELIMINARY if PRELIMINARY in pretrained else [*pretrained, *archs][0]


class Lead(NamedTuple):
    """The architecture that is trained with many seeds."""

    arch: str
    config: StudyConfig
    starts: Starts

    def runs(
        self, manifests: list[pd.DataFrame], freeze: Freeze = "head", tag: str = "", **changes: Any
    ) -> list[Experiment]:
        """A run a manifest, with the seeds 0, 1, ..."""
        return [
            _run(self.arch, freeze, self.config, self.starts, manifest, tag, seed=seed, **changes)
            for seed, manifest in enumerate(manifests)
        ]


def _preliminary(lead: Lead, used: pd.DataFrame) -> Arms:
    every = [used] * lead.config.seeds
    arms = {RANDOM: lead.runs(every, "none", weights="none")}
    if lead.starts[lead.arch].why_random:
        return arms
    return {**arms, PRETRAINED: lead.runs(every, "none"), HEAD: lead.runs(every)}


def _unfrozen(config: StudyConfig, starts: Starts, used: pd.DataFrame) -> Arms:
    kinds: dict[Freeze, str] = {"last_block": "last block", "none": "nothing frozen"}
    return {
        f"{arch}, {kind}": [_run(arch, freeze, config, starts, used)]
        for arch in config.archs
        for freeze, kind in kinds.items()
    }


def _colour(lead: Lead, used: pd.DataFrame) -> Arms:
    every = [used] * lead.config.seeds
    return {COLOUR: lead.runs(every), GREY: lead.runs(every, tag="grey", grayscale=1.0)}


def _optimizers(lead: Lead, used: pd.DataFrame) -> Arms:
    every = [used] * min(lead.config.seeds, OPTIMIZER_SEEDS)
    return {
        f"{name} {rate:g}": lead.runs(every, optimizer=name, learning_rate=rate)
        for name, rates in RATES.items()
        for rate in rates
    }


def _curation(lead: Lead, balanced: pd.DataFrame, scraped: pd.DataFrame) -> Arms:
    pairs = [before_and_after(balanced, scraped, seed) for seed in range(lead.config.seeds)]
    before, after = map(list, zip(*pairs, strict=True))
    return {SCRAPED: lead.runs(before, tag="scraped"), BALANCED: lead.runs(after, tag="curated")}


def _run(
    arch: str,
    freeze: Freeze,
    config: StudyConfig,
    starts: Starts,
    manifest: pd.DataFrame,
    tag: str = "",
    **changes: Any,
) -> Experiment:
    values = {
        "weights": starts[arch].weights,
        "epochs": config.epochs if freeze == "head" else config.unfrozen_epochs,
        "image_size": config.image_size,
        "threads": config.threads,
        **changes,
    }
    settings = TrainConfig(arch=arch, freeze=freeze, **values)
    words = [arch.replace("/", "_"), freeze, "random" if settings.weights == "none" else "", tag]
    if (settings.optimizer, settings.learning_rate) != ("sgd", TrainConfig.learning_rate):
        words += [settings.optimizer, f"{settings.learning_rate:g}"]
    return Experiment("-".join([*filter(None, words), f"seed{settings.seed}"]), settings, manifest)


def before_and_after(balanced: pd.DataFrame, scraped: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two manifests to train on, from before and after curation, that differ in nothing but which images they took.

    Both have the validation and test images of the balanced manifest, and of every class the same number of training
    images, drawn by the seed: as many as the smaller of the two has. Images of val and test, and their copies
    (`duplicate_of`, `label_conflict` of either manifest), are in neither.

    Args:
        balanced: with `split`; rows whose `status` is not accepted are left out.
        scraped: any; all rows of the same classes are taken, whatever became of them later.
        seed: of the draw.

    Raises:
        CurateError: a class has no training image left.
    """
    held = pd.concat([split_rows(balanced, part) for part in ("val", "test") if (balanced["split"] == part).any()])
    clean = split_rows(balanced, "train")
    classes = sorted(clean["label"].unique())
    photograph = photographs(pd.concat([balanced, scraped]))
    seen = set(held["image_id"].map(photograph))
    pools = [
        pool[pool["label"].isin(classes) & ~pool["image_id"].map(photograph).isin(seen)] for pool in (scraped, clean)
    ]
    counts = pd.concat([pool["label"].value_counts() for pool in pools], axis=1).reindex(classes).fillna(0).min(axis=1)
    if empty := sorted(counts[counts < 1].index):
        raise CurateError(
            f"class {', '.join(empty)}: no image to train on in one of the two manifests, but for those of val and "
            "test and their copies. Give the manifests of the same collection, before and after."
        )
    both = [c for c in COLUMNS if c in ("status", "split") or (c in balanced and c in scraped)]
    before, after = (
        pd.concat([_drawn(pool, counts, seed).assign(status="accepted", split="train"), held], ignore_index=True)
        for pool in pools
    )
    return before.assign(status="accepted")[both], after.assign(status="accepted")[both]


def photographs(table: pd.DataFrame) -> dict[str, int]:
    """image_id -> number of the photograph it shows: the same for copies, as marked, and for equal bytes."""
    columns = [c for c in ("duplicate_of", "label_conflict", "sha256") if c in table]
    links = [table[["image_id", c]].dropna().to_numpy(str) for c in columns]
    pairs = np.concatenate([table[["image_id", "image_id"]].to_numpy(str), *links])
    names, ends = np.unique(pairs, return_inverse=True)
    first, second = ends.reshape(pairs.shape).T
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(names), len(names)))
    return dict(zip(names.tolist(), connected_components(graph, directed=False)[1].tolist(), strict=True))


def _drawn(pool: pd.DataFrame, counts: pd.Series, seed: int) -> pd.DataFrame:
    """As many rows of every class as `counts` says; the order of the pool does not matter."""
    rng = np.random.default_rng(seed)
    ordered = pool.sort_values("image_id")
    rows = [rng.permutation(np.flatnonzero(ordered["label"] == label))[: int(n)] for label, n in counts.items()]
    return ordered.iloc[np.concatenate(rows)]
