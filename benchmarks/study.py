"""`classify study` on real scraped photos, with an expert's verdicts as the curator: what it shows, and in what time.

    python -m benchmarks.study

Two manifests of the same search, 40 images a class: what an expert keeps (those that are no close call first, one of
each photograph), split into 24, 8 and 8; and the first that the search gave, whatever they show. Copies, as
`curate dedup` verifies them, are linked, so that no photograph of val or test is trained on.

MobileNetV2, SqueezeNet and VGG16 begin with ImageNet weights by path. The study's own VGG19_BN, ResNet18 and
DenseNet121 begin with random ones, for there are no weights of theirs here: they show that the code runs, and no more.

Differences are of macro-F1 on split test, with 95 % intervals over seeds and images.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.options import SHARED, arguments, read_truth
from curate.console import progress_bars
from curate.dedup import find_copies
from curate.images import inspect
from curate.manifest import write_manifest
from curate.split import split
from curate.store import store

PER_CLASS = 40
SHARE = 0.2  # of each class, of val and of test: 8 of 40, for the intervals' sake
WEIGHTS = {
    "mobilenet_v2": "mobilenet_v2_imagenet_features.pth",
    "squeezenet1_1": "squeezenet1_1_imagenet_tvnorm.pth",
    "vgg16": "vgg16_imagenet_features.pth",
}
RANDOM = ("vgg19_bn", "resnet18", "densenet121")


def main() -> None:
    parser = arguments(__doc__, "MobileNetV2 alone, two epochs, two seeds")
    parser.add_argument("--home", type=Path, default=None, help="folder to work in [default: a temporary one]")
    parser.add_argument("--folder", type=Path, default=SHARED / "weights", help="of the weights")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--unfrozen-epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    truth = read_truth(options)
    if truth is None:
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        build_manifests(truth, options.photos, home)
        prepared = time.perf_counter() - started
        study(options, home)
        outcome = figures(json.loads((home / "runs" / "study" / "results.json").read_text()))
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({**outcome, "preparing_seconds": round(prepared, 1), "seconds": seconds}))


def study(options: argparse.Namespace, home: Path) -> None:
    """Run the command as a person would."""
    from classify.cli import main as classify

    archs = ["mobilenet_v2"] if options.quick else [*WEIGHTS, *RANDOM]
    words = ["study", "--manifest", home / "balanced.csv", "--scraped", home / "scraped.csv", "--data", home / "data"]
    words += ["--runs", home / "runs", "--name", "study", "--test"]
    for arch in archs:
        weights = options.folder / WEIGHTS[arch] if arch in WEIGHTS else "none"
        words += ["--arch", arch, "--weights", f"{arch}={weights}"]
    epochs = (2, 2, 2) if options.quick else (options.epochs, options.unfrozen_epochs, options.seeds)
    for name, value in zip(("--epochs", "--unfrozen-epochs", "--seeds"), epochs, strict=True):
        words += [name, value]
    print("$ classify", *words, flush=True)
    try:
        classify([str(word) for word in words])
    except SystemExit as end:
        if end.code:
            raise


def build_manifests(truth: pd.DataFrame, photos: Path, home: Path) -> None:
    """Write balanced.csv and scraped.csv, and the images below data/; nothing where they are there."""
    if (home / "scraped.csv").exists():
        return
    order = pd.DataFrame([search_rank(name) for name in truth["file_name"]], truth.index, ["number", "name"])
    truth = truth.join(order).sort_values(["label", "number", "name"])
    first = truth.groupby("label").head(PER_CLASS)
    keepers = truth[truth["verdict"] == "keep"].sort_values(["label", "doubtful"], kind="stable")
    table = stored(pd.concat([keepers, first]).drop_duplicates("file_name"), photos, home / "data")
    table["original"] = originals(table, home / "data")
    kept = table[table["found"].isin(keepers["file_name"]) & (table["image_id"] == table["original"])]
    balanced = kept.groupby("label").head(PER_CLASS).assign(status="accepted")
    balanced = split(balanced, val_share=SHARE, test_share=SHARE)
    scraped = table[table["found"].isin(first["file_name"])].assign(status="candidate")
    scraped["duplicate_of"] = scraped["original"].where(scraped["original"] != scraped["image_id"])
    good = scraped["found"].isin(keepers["file_name"])
    print(f"balanced: {balanced['label'].value_counts().to_dict()}; of the scraped {good.mean():.0%} are keepers")
    write_manifest(balanced.drop(columns=["found", "original"]), home / "balanced.csv")
    write_manifest(scraped.drop(columns=["found", "original"]), home / "scraped.csv")


def search_rank(name: str) -> tuple[float, str]:
    """Files named by a number stand in the order of the search; those with a name of their own came after them."""
    stem = Path(name).stem
    return (int(stem), "") if stem.isdecimal() else (np.inf, stem)


def stored(truth: pd.DataFrame, photos: Path, data: Path) -> pd.DataFrame:
    """`image_id`, `sha256`, `file_name`, `label`, and `found`, the name before; equal bytes once."""
    rows = []
    for name, label in zip(truth["file_name"], truth["label"], strict=True):
        content = (photos / name).read_bytes()
        picture = inspect(content)
        rows.append((picture.sha256[:16], picture.sha256, store(data, content, picture), label, name))
    table = pd.DataFrame(rows, columns=["image_id", "sha256", "file_name", "label", "found"])
    return table.drop_duplicates("image_id", ignore_index=True)


def originals(table: pd.DataFrame, data: Path) -> pd.Series:
    """The `image_id` of the first image in the table that shows the same photograph, as `curate dedup` tells."""
    with progress_bars() as progress:
        pairs = find_copies(table, data, progress=progress).dropna(subset=["second"])
    row_of = pd.Series(table.index, table["image_id"])
    ends = (row_of[pairs["first"]].to_numpy(), row_of[pairs["second"]].to_numpy())
    graph = coo_array((np.ones(len(pairs)), ends), shape=(len(table), len(table)))
    photograph = connected_components(graph, directed=False)[1]
    return table.groupby(photograph)["image_id"].transform("first")


def figures(results: dict) -> dict:
    """Gains as (difference, low, high), and the accuracy of the run that was best on val."""
    from classify.study_findings import BY_COLOUR, BY_CURATION, BY_HEAD, BY_INIT

    claims = {"pretrained_gain": BY_INIT, "head_gain": BY_HEAD, "curation_gain": BY_CURATION, "colour_gain": BY_COLOUR}
    gains = {
        name: [round(row[key], 4) for key in ("difference", "low", "high")]
        for name, claim in claims.items()
        for row in results["verdicts"]
        if (row["claim"], row["split"]) == (claim, "test") and row["difference"] is not None
    }
    sgd = {row["claim"]: row["answer"] for row in results["verdicts"] if row["claim"].startswith("SGD")}
    classical = max(results["baselines"], key=lambda row: row["cross_validated_macro_f1"])
    best = results["best"]
    judged = {f"best_{split}": round(best[split]["accuracy"], 4) for split in ("val", "test")}
    chance = round(best["val"]["chance_accuracy"], 4)
    by_classical = {"classical": classical["classifier"], "classical_val": round(classical["accuracy"], 4)}
    return {**gains, "sgd": sgd, "best": best["name"], **judged, **by_classical, "chance": chance}


if __name__ == "__main__":
    main()
