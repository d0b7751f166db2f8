"""How well the screen ranks images of a class that was never reviewed, by the number of decisions it has learnt from.

    python -m benchmarks.screen

Learns on n decisions drawn by chance in all classes but one and judges that one, for each class and seed; and on the
most suspicious images of all classes, judging the rest, which is how a reviewer who follows the queue begins. Doubtful
verdicts are left out of what is judged. The constants of `curate.screen` were chosen on these photos.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from curate.console import print_table
from curate.screen import crowd_distance, reject_probability

SHARED = Path(__file__).resolve().parents[2] / "shared"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=SHARED / "data" / "rocks")
    parser.add_argument("--truth", type=Path, default=None, help="CSV of verdicts [default: PHOTOS/truth.csv]")
    parser.add_argument("--weights", default=str(SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"))
    parser.add_argument("--quick", action="store_true", help="two seeds instead of eight")
    options = parser.parse_args()
    truth_path = options.truth or options.photos / "truth.csv"
    if not truth_path.exists() or not Path(options.weights).exists():
        print(f"no real photos here: {truth_path} or {options.weights} is missing; see --photos, --truth, --weights")
        print(json.dumps({"skipped": str(truth_path)}))
        return
    truth = pd.read_csv(truth_path)
    embeddings = embed(truth, options.photos, options.weights)
    figures = measure(truth, embeddings, seeds=2 if options.quick else 8)
    print_table(("figure", "AUROC", "95 % interval"), [(name, f"{m:.3f}", i) for name, (m, i) in figures.items()])
    print(json.dumps({name: round(mean, 4) for name, (mean, _) in figures.items()}))


def embed(truth: pd.DataFrame, photos: Path, weights: str) -> np.ndarray:
    """(n, d) MobileNetV2 embeddings."""
    from classify.features import embed
    from classify.models import load_backbone

    with tempfile.TemporaryDirectory() as cache:
        table = truth.assign(image_id=[f"{row:016x}" for row in range(len(truth))])
        return embed(table, photos, load_backbone("mobilenet_v2", weights), cache=Path(cache))


def measure(truth: pd.DataFrame, embeddings: np.ndarray, seeds: int) -> dict[str, tuple[float, str]]:
    """Figure -> mean AUROC over classes and seeds, and its interval (normal, over those runs)."""
    bad = (truth["verdict"] == "reject").to_numpy(dtype=float)
    sure, label = (truth["doubtful"] == 0).to_numpy(), truth["label"].to_numpy()
    runs: dict[str, list[float]] = {"crowd": [auroc(bad, crowd_distance(embeddings), sure)]}
    suspicious = np.argsort(-crowd_distance(embeddings))
    for n in (40, 80, 160):
        for seed in range(seeds):
            for left_out in np.unique(label):
                taught = np.random.default_rng(seed).permutation(np.flatnonzero(label != left_out))[:n]
                runs.setdefault(f"auroc_{n}", []).append(score(embeddings, bad, taught, sure & (label == left_out)))
        rest = sure & ~np.isin(np.arange(len(bad)), suspicious[:n])
        runs[f"most_suspicious_{n}"] = [score(embeddings, bad, suspicious[:n], rest)]
    return {name: (float(np.mean(values)), interval(values)) for name, values in runs.items()}


def score(embeddings: np.ndarray, bad: np.ndarray, taught: np.ndarray, judged: np.ndarray) -> float:
    """AUROC on the judged images after the decisions on the taught ones; 0.5 while the screen says nothing."""
    verdicts = np.full(len(bad), np.nan)
    verdicts[taught] = bad[taught]
    probability = reject_probability(embeddings, verdicts)
    return 0.5 if probability is None else auroc(bad, probability, judged)


def auroc(bad: np.ndarray, scores: np.ndarray, judged: np.ndarray) -> float:
    return float(roc_auc_score(bad[judged], scores[judged]))


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return "one run"
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values) - half:.3f} to {np.mean(values) + half:.3f}"


if __name__ == "__main__":
    main()
