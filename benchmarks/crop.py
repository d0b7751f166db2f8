"""Training on the specimen's part of every image (`classify train --crop`) beside training on the whole of it.

    python -m benchmarks.crop

Scraped photos with an expert's verdicts. For each of ten seeds a fifth of the clear keepers of each class is held out,
so that two passes of five folds test every one of them twice, and with them the photos of another source, which nobody
judged; copies of a test photo (as `curate dedup` verifies them) are not trained on. Of the other keepers a fifth
chooses the epoch, the rest trains a head on MobileNetV2 with ImageNet weights, by the defaults of `classify train`.
Both arms train on the same photos with the same seeds. Nothing was tuned here.

The figure is the mean of the classes' recalls; intervals are 95 % of a bootstrap over both seeds and test photos.
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.curation_gain import FOLDS, Draws, copy_groups, held_out, rounded, said, with_other_source
from benchmarks.options import arguments, read_truth
from classify.config import TrainConfig
from classify.models import load_run
from classify.predict import predict_rows
from classify.train import train
from curate.console import print_table, progress_bars
from curate.images import inspect

ARMS = {"whole": False, "crop": True}
RECIPE = TrainConfig(arch="mobilenet_v2", freeze="head")


def main() -> None:
    options = arguments(__doc__, "two seeds, two epochs").parse_args()
    truth = read_truth(options)
    if truth is None:
        return
    torch.set_num_threads(1)
    started = time.perf_counter()
    files = with_other_source(truth, options.photos)
    group = copy_groups(files, options.photos)
    recipe = dataclasses.replace(RECIPE, weights=options.weights, epochs=2 if options.quick else RECIPE.epochs)
    results, seeds = [], 2 if options.quick else 2 * FOLDS
    with tempfile.TemporaryDirectory() as home, progress_bars() as progress:
        files["sha256"] = [inspect((options.photos / name).read_bytes()).sha256 for name in files["file_name"]]
        for seed in range(seeds):
            results.append(one_seed(files, group, options.photos, recipe, Path(home), seed))
            progress("seeds", seed + 1, seeds)
    outcome = report(pd.concat(results, ignore_index=True))
    print(json.dumps({**outcome, "seconds": round(time.perf_counter() - started, 1)}))


def one_seed(
    files: pd.DataFrame, group: np.ndarray, photos: Path, recipe: TrainConfig, home: Path, seed: int
) -> pd.DataFrame:
    """A row for each arm and test photo, as `Draws` takes them."""
    test = held_out(files, group, seed)
    clear = files["verdict"].eq("keep") & files["doubtful"].astype(int).eq(0) & ~np.isin(group, group[test])
    used = files[clear.to_numpy()].drop_duplicates("sha256")
    place = used.sample(frac=1, random_state=seed).groupby("label").cumcount()
    part = np.where(place.reindex(used.index) % 5 == 0, "val", "train")
    manifest = used.assign(image_id=used["sha256"].str[:16], split=part)
    about = files.iloc[test].assign(photo=test, other=files["verdict"].iloc[test] == "", seed=seed, head="linear")
    parts = []
    for arm, crop in ARMS.items():
        run = home / f"{arm}-{seed}"
        train(manifest, photos, dataclasses.replace(recipe, crop=crop, seed=seed), run, cache=home / "cache")
        trained = load_run(run)
        told = predict_rows(trained, about, photos).argmax(1)
        parts.append(about.assign(arm=arm, right=np.array(trained.classes)[told] == about["label"]))
    return pd.concat(parts, ignore_index=True)[["photo", "label", "other", "seed", "head", "arm", "right"]]


def report(results: pd.DataFrame) -> dict:
    """Print and return the figures of both arms and of their difference, on the keepers and on the other source."""
    outcome, lines = {}, []
    for name, rows in (("held_out_keepers", results[~results["other"]]), ("other_source", results[results["other"]])):
        draws = Draws(rows)
        of = {arm: draws.accuracy("linear", arm) for arm in ARMS}
        of["difference"] = of["crop"] - of["whole"]
        for arm, drawn in of.items():
            figure, interval = rounded(drawn)
            outcome[f"{name}_{arm}"] = [figure, *interval]
        lines.append((name.replace("_", " "), str(rows["photo"].nunique()), *map(said, of.values())))
    print_table(("mean recall on", "photos", "whole images", "specimen's part", "difference"), lines)
    return outcome


if __name__ == "__main__":
    main()
