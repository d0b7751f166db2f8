"""How well the screen ranks images of a class that was never reviewed, by the number of decisions it has learnt from.

    python -m benchmarks.screen              # with the peers of `make peers`

Learns on n decisions drawn by chance in all classes but one and judges that one, for each class and eight seeds.
Doubtful verdicts are left out of what is judged (but not of what is learnt), and reported apart. Arms:

    screen       `curate.screen` on embeddings and the measures of `curate.concepts`, `reject_prior` among them. Of
                 classes that these were fitted on, each class has measures fitted on the other classes
    pixels       the same with measures of the pixels alone, as with a backbone that has no concepts
    embeddings   the same without any measure
    baseline     logistic regression on standardised MobileNetV2 embeddings
    prior        `reject_prior` alone, which has learnt nothing from these decisions
    cleanvision, cleanlab, cleanlab_outlier    as in `benchmarks.review_effort`; random

Another taste: a reviewer who rejects for a natural or cluttered background, and what is off topic, and nothing else,
with `reject_prior` and without any measure.

Purity: the share of good ones among the surest 40 of a class, the doubtful left out. Calibration error: of the pooled
probabilities after 160 decisions, in ten bins (Naeini et al., AAAI 2015). Intervals: 95 %, by bootstrap over the runs.
"""

import json
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.options import arguments, read_truth
from benchmarks.review_effort import PEERS, ask_peers
from benchmarks.verdicts import Pool, decisions_on, embed, judge, measure, pool_of
from curate.console import print_table
from curate.screen import MEASURES, PRIOR, Space, certainty, learn, see

DECISIONS = (40, 80, 160)
SUREST = 40  # images of a class
BINS = 10
LARGE = 10_000  # images, for the time of a refit

Arm = Callable[[np.ndarray], np.ndarray]  # rows that were decided -> (n,) the higher, the likelier rejected


class Run(NamedTuple):
    """One class judged after some decisions on the others.

    Attributes:
        rows: of the class. scores: of those rows.
    """

    rows: np.ndarray
    scores: np.ndarray


def main() -> None:
    options = arguments(__doc__, "two seeds instead of eight, without the peers").parse_args()
    truth = read_truth(options)
    if truth is None:
        return
    embeddings, key = embed(truth, options.photos, options.weights)
    measures = measure(truth, options.photos, embeddings, key)
    arms, fixed = arms_of(truth, embeddings, measures)
    if not options.quick and PEERS.exists():
        fixed |= {name: -scores for name, scores in ask_peers(truth, options.photos, embeddings).items()}
    sure, bad = (truth["doubtful"].astype(int) == 0).to_numpy(), (truth["verdict"] == "reject").to_numpy()
    seeds = 2 if options.quick else 8
    figures: dict[str, float] = {}
    table = []
    for name, arm in arms.items():
        for n in DECISIONS:
            runs = runs_of(arm, truth["label"].to_numpy(), n, seeds)
            table.append((name, str(n), *described(runs, bad, sure, name, n, figures)))
    for name, scores in fixed.items():
        runs = runs_of(lambda _, scores=scores: scores, truth["label"].to_numpy(), 0, 1)
        table.append((name, "-", *described(runs, bad, sure, name, 0, figures)))
    print_table(("arm", "decisions", "AUROC (95 %)", "purity of the surest 40", "AUROC of the doubtful"), table)
    figures |= trust(arms["screen"], truth, bad, sure, seeds)
    figures |= another_taste(truth, embeddings, measures[""], sure, seeds)
    figures |= refit_seconds(embeddings, bad)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def arms_of(
    truth: pd.DataFrame, embeddings: np.ndarray, measures: dict[str, pd.DataFrame]
) -> tuple[dict[str, Arm], dict[str, np.ndarray]]:
    """What learns from decisions, and what does not."""
    fitted = measures[""]
    without = fitted.drop(columns=[name for name in MEASURES if name in fitted])
    screens = {"screen": fitted, "embeddings": without}
    if "_pixels" in measures:
        screens["pixels"] = measures["_pixels"]
    arms = {name: screen_arm(pool_of(truth, embeddings, table)) for name, table in screens.items()}
    arms["baseline"] = baseline_arm(embeddings, (truth["verdict"] == "reject").to_numpy())
    fixed = {"random": np.random.default_rng(0).random(len(truth))}
    if PRIOR in fitted:
        fixed["prior"] = fitted[PRIOR].to_numpy(dtype=float)
    return arms, fixed


def screen_arm(pool: Pool) -> Arm:
    def scores(rows: np.ndarray) -> np.ndarray:
        return judge(pool, decisions_on(pool, rows))[1]

    return scores


def baseline_arm(embeddings: np.ndarray, bad: np.ndarray) -> Arm:
    """Plain features, plain classifier; of C 0.001 to 0.1 the best here, which favours it."""

    def scores(rows: np.ndarray) -> np.ndarray:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=2000))
        return model.fit(embeddings[rows], bad[rows]).predict_proba(embeddings)[:, 1]

    return scores


def runs_of(arm: Arm, label: np.ndarray, n: int, seeds: int) -> list[Run]:
    """Every class left out, for every seed."""
    runs = []
    for left_out in np.unique(label):
        rows, others = np.flatnonzero(label == left_out), np.flatnonzero(label != left_out)
        for seed in range(seeds):
            runs.append(Run(rows, arm(np.random.default_rng(seed).permutation(others)[:n])[rows]))
    return runs


def described(
    runs: list[Run], bad: np.ndarray, sure: np.ndarray, name: str, n: int, figures: dict[str, float]
) -> tuple[str, str, str]:
    """Cells of the table; the figures are noted under their names."""
    aurocs = [auroc(run, bad, sure) for run in runs]
    purities = [purity(run, bad, sure) for run in runs]
    doubtful = [auroc(run, bad, ~sure) for run in runs]
    prefix, suffix = ("" if name == "screen" else f"{name}_"), (f"_{n}" if n else "")
    figures[f"{prefix}auroc{suffix}"], figures[f"{prefix}purity{suffix}"] = np.nanmean(aurocs), np.nanmean(purities)
    low, high = interval(aurocs)
    figures |= {f"{prefix}auroc{suffix}_low": low, f"{prefix}auroc{suffix}_high": high}
    return f"{np.nanmean(aurocs):.3f} ({low:.3f} to {high:.3f})", f"{np.nanmean(purities):.3f}", mean_of(doubtful)


def auroc(run: Run, bad: np.ndarray, counted: np.ndarray) -> float:
    """NaN where the rows that count are all good or all bad."""
    mine = counted[run.rows]
    verdicts = bad[run.rows][mine]
    return float(roc_auc_score(verdicts, run.scores[mine])) if 0 < verdicts.sum() < len(verdicts) else np.nan


def purity(run: Run, bad: np.ndarray, sure: np.ndarray) -> float:
    surest = run.rows[np.argsort(run.scores, kind="stable")[:SUREST]]
    return float(1 - bad[surest[sure[surest]]].mean()) if sure[surest].any() else np.nan


def trust(arm: Arm, truth: pd.DataFrame, bad: np.ndarray, sure: np.ndarray, seeds: int) -> dict[str, float]:
    """Whether the probabilities hold, and what being sure is worth."""
    runs = runs_of(arm, truth["label"].to_numpy(), DECISIONS[-1], seeds)
    probability = np.concatenate([run.scores[sure[run.rows]] for run in runs])
    verdicts = np.concatenate([bad[run.rows][sure[run.rows]] for run in runs])
    places = np.minimum((probability * BINS).astype(int), BINS - 1)
    weights, said, true = (np.bincount(places, values, BINS) for values in (None, probability, verdicts))
    error = float(np.abs(said - true).sum() / weights.sum())
    is_sure = certainty(probability) == "sure"
    right = float(((probability > 0.5) == verdicts)[is_sure].mean())
    print(
        f"calibration error {error:.3f}; sure of {is_sure.mean():.1%} of the images, and right on {right:.1%} of those"
    )
    return {"calibration_error": error, "sure_share": float(is_sure.mean()), "sure_accuracy": right}


def another_taste(
    truth: pd.DataFrame, embeddings: np.ndarray, fitted: pd.DataFrame, sure: np.ndarray, seeds: int
) -> dict[str, float]:
    """AUROC where the reviewer wants other images than the expert whom the prior has learnt from."""
    bad = (truth["background"].isin(["natural", "cluttered"]) | (truth["reason"] == "off_topic")).to_numpy()
    theirs = truth.assign(verdict=np.where(bad, "reject", "keep"), reason=np.where(bad, "background", ""))
    without = fitted.drop(columns=[name for name in MEASURES if name in fitted])
    figures = {}
    for name, table in (("other_taste", fitted), ("other_taste_embeddings", without)):
        arm = screen_arm(pool_of(theirs, embeddings, table))
        for n in DECISIONS:
            runs = runs_of(arm, truth["label"].to_numpy(), n, seeds)
            figures[f"{name}_auroc_{n}"] = float(np.nanmean([auroc(run, bad, sure) for run in runs]))
    print("another taste: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures


def refit_seconds(embeddings: np.ndarray, bad: np.ndarray) -> dict[str, float]:
    """Processor seconds of a refit at `LARGE` images after a thousand decisions: the photos, each many times, noisy."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(embeddings), LARGE)
    noisy = embeddings[rows] * rng.uniform(0.8, 1.2, (LARGE, 1)) + 0.1 * rng.random((LARGE, embeddings.shape[1]))
    space: Space = see(noisy, pd.DataFrame({PRIOR: rng.random(LARGE)}))
    verdicts = np.where(np.arange(LARGE) < 1000, bad[rows].astype(float), np.nan)
    reasons = rng.choice(["off_topic", "overlay", "background", "low_quality", "multiple_objects"], LARGE).astype(
        object
    )
    start = time.process_time()
    learn(space, verdicts, reasons)
    seconds = time.process_time() - start
    print(f"a refit at {LARGE:,} images after 1,000 decisions: {seconds:.2f} s of one processor")
    return {"refit_seconds": seconds}


def interval(values: list[float]) -> tuple[float, float]:
    """Of the mean, by bootstrap."""
    known = np.array(values)[np.isfinite(values)]
    means = np.random.default_rng(0).choice(known, (2000, len(known))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean_of(values: list[float]) -> str:
    known = np.array(values)[np.isfinite(values)]
    return f"{known.mean():.2f}" if len(known) else "-"


if __name__ == "__main__":
    main()
