"""The whole loop, offline: rendered hand samples, scraped over HTTP from a loopback Bing, curated, and trained on.

    make demo

Nothing here is a photograph: the source `demo` renders every picture, plants copies, artifacts and off-topic pictures
among them, and knows the truth, which plays the reviewer. The search engine is a server on this machine.
"""

import argparse
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.steps import Steps
from curate.console import print_table
from curate.images import inspect
from curate.manifest import read_manifest, write_manifest
from curate.recipe import copy_shipped, read_recipe
from curate.screen import Space, learn, see
from curate.sources.demo import Truth, render, truth_of
from curate.split import split
from curate.store import store
from curate.thresholds import THRESHOLDS
from tests.web import LoopbackWeb, demo_photos

SEED = 7
OFFERED = 300  # pictures of each class that the loopback Bing has
FRESH = range(340, 400)  # indexes that it does not have: the independent test
SMALL_CNN = ("--arch", "small_cnn", "--weights", "none", "--freeze", "none", "--image-size", "112", "--dropout", "0.2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few classes, few images, few epochs: to see it run")
    parser.add_argument("--home", type=Path, default=Path("demo"), help="folder to work in; what is there is deleted")
    options = parser.parse_args()
    shutil.rmtree(options.home, ignore_errors=True)
    start = time.perf_counter()
    figures = run_loop(options.home, options.quick)
    figures["seconds"] = round(time.perf_counter() - start, 1)
    home = options.home
    print(f"\n{figures['seconds']:.0f} seconds in all. To look at: {home}/runs/balanced/report.html; the review page:")
    print(f".venv/bin/curate review {home}/balanced.csv --data {home}/data")
    print(json.dumps(figures))


def run_loop(home: Path, quick: bool) -> dict:
    """The loop, command by command; the figures to print last."""
    scraped_per_class, per_class, epochs = (30, 15, 4) if quick else (100, 73, 30)
    recipe = home / "igneous.toml"
    copy_shipped("igneous", recipe)
    labels = read_recipe(recipe).labels
    step = Steps(home, recipe)
    with LoopbackWeb(demo_photos(labels, OFFERED, SEED), seed=SEED) as web:
        with recipe.open("a") as file:
            file.write("\n[web.mirrors]\n" + "".join(f'"{host}" = "{base}"\n' for host, base in web.mirrors.items()))
        step.curate("scrape", "--per-class", str(scraped_per_class), "-o", step.path("scraped.csv"))
        step.curate("dedup", step.path("scraped.csv"), "-o", step.path("unique.csv"))
        before = as_scraped(read_manifest(home / "scraped.csv"), per_class)
        write_manifest(before, home / "before.csv")
        train(step, "before", epochs)
        model = ("--run", step.path("runs/before"))
        step.curate("audit", step.path("unique.csv"), "-o", step.path("audited.csv"), *model)
        found = planted_and_found(read_manifest(home / "audited.csv"), step, labels)
        rounds = review_and_balance(step, model, per_class)
    step.curate("stats", step.path("balanced.csv"))
    train(step, "balanced", epochs)
    write_manifest(fresh_keepers(home / "data", labels), home / "fresh.csv")
    accuracy = {"as scraped": accuracies(step, "before"), "curated": accuracies(step, "balanced")}
    split_of = ("--manifest", step.path("balanced.csv"), "--split", "test")
    step.classify("explain", step.path("runs/balanced"), *split_of)
    return report(found, before, read_manifest(home / "balanced.csv"), accuracy, rounds)


def as_scraped(scraped: pd.DataFrame, per_class: int) -> pd.DataFrame:
    """The first images of each class as the engine ranked them, split like the curated set: no curation at all."""
    first = scraped.groupby("label").head(per_class).index
    return split(scraped.assign(status=np.where(scraped.index.isin(first), "accepted", "candidate")), seed=SEED)


def train(step: Steps, name: str, epochs: int) -> None:
    """The study's first model, from random weights: no ImageNet weights are needed offline."""
    words = (*SMALL_CNN, "--epochs", str(epochs), "--lr", "0.05", "--seed", "0")
    where = ("--manifest", step.path(f"{name}.csv"), "--runs", step.path("runs"), "--name", name)
    step.classify("train", *words, *where)


def accuracies(step: Steps, run: str) -> dict[str, float]:
    """Accuracy on the run's own val and test split, and on the fresh keepers."""
    result = {}
    for name, manifest, part in (("val", run, "val"), ("test", run, "test"), ("fresh", "fresh", "test")):
        where = ("--manifest", step.path(f"{manifest}.csv"), "--split", part)
        step.classify("evaluate", step.path(f"runs/{run}"), *where)
        text = (step.home / "runs" / run / f"evaluation-{part}.json").read_text()
        result[name] = round(float(json.loads(text)["accuracy"]), 4)
    return result


def review_and_balance(step: Steps, model: tuple[str, ...], per_class: int) -> int:
    """Judge all that waits by the planted truth, balance, judge what is new, until every class is full: the rounds."""
    manifest = "audited.csv"
    for rounds in range(1, 9):
        table = read_manifest(step.home / manifest)
        waiting = table[table["status"].eq("candidate") & table["reason"].ne("spare")]
        decisions = pd.DataFrame([verdict(truth_of(url, SEED)) for url in waiting["url"]])
        decisions = decisions.assign(image_id=waiting["image_id"].to_numpy())
        decisions.to_csv(step.home / "verdicts.csv", index=False)
        step.curate(
            "decide", step.path("verdicts.csv"), "--manifest", step.path(manifest), "--reviewer", "planted truth"
        )
        words = (step.path(manifest), "--per-class", str(per_class), "-o", step.path("balanced.csv"), *model)
        if step.curate("balance", *words, may_fail=True):
            return rounds
        manifest = "balanced.csv"
    raise SystemExit(f"{per_class} keepers a class were not found in {rounds} rounds of review")


def verdict(truth: Truth) -> dict[str, str | None]:
    """What the reviewer who knows the truth decides; a copy of a keeper is fit in itself."""
    if truth.reason:
        return {"verdict": "reject", "reason": truth.reason, "label": None}
    if truth.copy_of_label not in (None, truth.label):
        return {"verdict": "relabel", "reason": None, "label": truth.copy_of_label}
    return {"verdict": "accept", "reason": None, "label": None}


class Score(NamedTuple):
    """How one kind of planted fault was found: counts, shares, and the share of what was found that is unfit at all."""

    name: str
    planted: int
    found: int
    precision: float
    recall: float
    unfit: float


def planted_and_found(audited: pd.DataFrame, step: Steps, labels: list[str]) -> list[Score]:
    """What the tool found before anyone had judged a picture; off topic: taught on half of the classes."""
    truth = [truth_of(url, SEED) for url in audited["url"]]
    flags = audited["flags"].fillna("")
    unfit = np.array([t.reason is not None for t in truth])
    rows = [copies_found(audited, truth)]
    for artifact in ("background", "illumination", "object_count"):
        planted = np.array([t.artifact == artifact for t in truth])
        columns = {threshold.column for threshold in THRESHOLDS.values() if threshold.artifact == artifact}
        found = [any(text.startswith(f"{c}=") for c in columns for text in raised.split("; ")) for raised in flags]
        rows.append(score(artifact.replace("_", " "), planted, np.array(found), unfit))
    off_topic = np.array([t.kind == "off_topic" for t in truth])
    found = taught_on_other_classes(see(step.embed(audited), audited), audited["label"].to_numpy(), off_topic, labels)
    return [*rows, score("off topic (taught on other classes)", off_topic, found, unfit)]


def copies_found(audited: pd.DataFrame, truth: list[Truth]) -> Score:
    """Planted: all but one of each family of copies. Found: verified links; right ones join one family.

    Links among off-topic drawings do not count: two diagrams of one template are copies, though not planted ones.
    """
    drawn = {i for i, t in zip(audited["image_id"], truth, strict=True) if t.kind == "off_topic"}
    family = {
        image_id: (t.copy_of_label or t.label, t.index if t.copy_of is None else t.copy_of)
        for image_id, t in zip(audited["image_id"], truth, strict=True)
    }
    links = {
        frozenset((row.image_id, other))
        for row in audited.itertuples()
        for other in (row.duplicate_of, row.label_conflict)
        if isinstance(other, str) and not {row.image_id, other} <= drawn
    }
    planted = sum(n - 1 for n in Counter(family.values()).values())
    right = sum(len({family[image_id] for image_id in link}) == 1 for link in links)
    precision = right / max(len(links), 1)
    return Score("copies", planted, len(links), precision, min(right / max(planted, 1), 1.0), precision)


def taught_on_other_classes(space: Space, labels: np.ndarray, planted: np.ndarray, classes: list[str]) -> np.ndarray:
    """What the screen finds in classes that nobody reviewed: each half of the classes taught it to judge the other."""
    found = np.zeros(len(planted), bool)
    for half in (classes[::2], classes[1::2]):
        taught = np.isin(labels, half)
        opinion = learn(space, np.where(taught, planted.astype(float), np.nan), np.full(len(planted), "", dtype=object))
        if opinion is not None:
            found[~taught] = opinion.probability[~taught] >= 0.5
    return found


def score(name: str, planted: np.ndarray, found: np.ndarray, unfit: np.ndarray) -> Score:
    """Of (n,) bool: what was planted, what was found, and what an expert would reject for any reason."""
    hits, number = int((planted & found).sum()), max(int(found.sum()), 1)
    recall = hits / max(int(planted.sum()), 1)
    return Score(name, int(planted.sum()), int(found.sum()), hits / number, recall, int((unfit & found).sum()) / number)


def fresh_keepers(root: Path, labels: list[str]) -> pd.DataFrame:
    """Keepers that no search offered: an independent test of both trainings, in the store and as a manifest."""
    rows = []
    for label in labels:
        for index in FRESH:
            data, truth = render(label, index, SEED)
            if truth.kind == "keeper":
                picture = inspect(data)
                name = store(root, data, picture)
                rows.append({"image_id": picture.sha256[:16], "file_name": name, "label": label, "split": "test"})
    return pd.DataFrame(rows).assign(status="accepted")


def fit_counts(table: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Class -> images taken, and how many of them an expert would keep under that label."""
    taken = table[table["status"] == "accepted"]
    truth = [truth_of(url, SEED) for url in taken["url"]]
    fit = [
        not t.reason and (t.copy_of_label or t.label) == label for t, label in zip(truth, taken["label"], strict=True)
    ]
    both = pd.DataFrame({"label": taken["label"], "fit": fit}).groupby("label")["fit"].agg(["size", "sum"])
    return {str(label): (int(n), int(good)) for label, (n, good) in both.iterrows()}


def report(
    found: list[Score], before: pd.DataFrame, balanced: pd.DataFrame, accuracy: dict[str, dict], rounds: int
) -> dict:
    """Print the tables of the demo; the figures for its last line."""
    print("\nPlanted among the scraped pictures, and found before anyone had judged them")
    print_table(
        ("planted", "there", "found", "precision", "recall", "of the found, to be rejected"),
        [(name, str(there), str(n), *(f"{share:.2f}" for share in shares)) for name, there, n, *shares in found],
    )
    old, new = fit_counts(before), fit_counts(balanced)
    print("\nImages of each class, and how many of them an expert would keep")
    columns = [(label, *(f"{n} ({good} fit)" for n, good in (old[label], new[label]))) for label in new]
    print_table(("class", "as scraped", "curated"), columns)
    print("\nAccuracy of the same small CNN, trained alike (fresh: rendered keepers that no search offered)")
    shares = [(name, *(f"{100 * value:.1f} %" for value in row.values())) for name, row in accuracy.items()]
    print_table(("training set", "val", "test", "fresh"), shares)
    return {
        "planted_found": {s.name: {"precision": round(s.precision, 3), "recall": round(s.recall, 3)} for s in found},
        "per_class": {label: n for label, (n, _) in new.items()},
        "kept_purity": round(sum(good for _, good in new.values()) / sum(n for n, _ in new.values()), 3),
        "review_rounds": rounds,
        "accuracy": accuracy,
    }


if __name__ == "__main__":
    main()
