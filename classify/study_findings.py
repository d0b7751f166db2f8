"""What the runs of a study show: figures of every arm, differences of two arms with their intervals, verdicts.

Where arms have several seeds, intervals are of a bootstrap over both seeds and images, 2000 times (Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics, 2007). All arms are on the same draws: differences are paired.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from classify.ablate import predict_ablated
from classify.baselines import Guesses, figures
from classify.compare import mcnemar, paired_macro_f1
from classify.data import check_rows, split_counts, split_rows
from classify.evaluate import evaluate_run, log_look
from classify.models import load_run
from classify.predict import predict_rows
from classify.predictions import predictions_table, read_predictions, unpacked
from classify.report import write_table
from classify.scores import RESAMPLES, scores
from classify.study_plan import BALANCED, COLOUR, GREY, HEAD, PRETRAINED, RANDOM, SCRAPED, Arms, Experiment, Starts

SHOWN, OPPOSITE, OPEN = "shown", "the opposite is shown", "not shown"
GRAYSCALE = "grayscale"
NAMES = {"sgd": "SGD", "adagrad": "AdaGrad", "rmsprop": "RMSProp", "adam": "Adam"}
BY_INIT = "pretrained weights beat random ones, all else equal (nothing frozen)"
BY_HEAD = "a head on frozen pretrained layers beats training everything from random weights"
BY_CURATION = "curated images teach more than scraped ones, as many a class"
BY_COLOUR = "a model trained on colour needs it: its images tell it more than the same ones in grey"
BY_GREY = "training and judging in colour beats training and judging in grey"
BY_NETWORK = "a network beats the best classical classifier on colour and texture"
SEEDED = (
    "arm",
    "split",
    "seeds",
    "images",
    *(f"{m}{end}" for m in ("accuracy", "macro_f1") for end in ("", "_low", "_high")),
)


class Samples(NamedTuple):
    """Measures of an arm, mean over its seeds: each (1 + 2000,), the figure itself and its bootstrap samples."""

    accuracy: np.ndarray
    macro_f1: np.ndarray


class Arm(NamedTuple):
    """What the runs of an arm say of the same images.

    Attributes:
        classes: sorted.
        image_ids: (n,) sorted.
        label: (n,) indices into classes.
        predicted: (seeds, n) indices into classes.
    """

    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    label: np.ndarray
    predicted: np.ndarray


class Verdict(NamedTuple):
    """Whether a claim holds of these images: the difference of two arms in macro-F1, with its 95 % interval."""

    claim: str
    split: str
    answer: str
    difference: float
    low: float
    high: float
    images: int
    seeds: int


class Study(NamedTuple):
    """The finished runs below a folder, and the images that they are judged on.

    Attributes:
        home: the folder of the runs.
        manifest: the balanced one.
        root: the data root.
        failed: name of a run -> why it has no result.
        splits: what is looked at: "val", and "test" where that was asked for.
    """

    home: Path
    manifest: pd.DataFrame
    root: Path
    failed: dict[str, str]
    splits: tuple[str, ...]

    def metrics(self, run: Experiment) -> dict[str, Any]:
        """Its metrics.json."""
        return dict(json.loads((self.home / run.name / "metrics.json").read_text()))

    def history(self, run: Experiment) -> pd.DataFrame:
        """Its history.csv."""
        return pd.read_csv(self.home / run.name / "history.csv")

    def arm(self, runs: list[Experiment], split: str, ablation: str | None = None) -> Arm:
        """What these runs, one at least, say of a split of the balanced manifest."""
        said = [self._said(run, split, ablation).set_index("image_id", drop=False) for run in runs]
        ids = sorted(set.intersection(*(set(table.index) for table in said)))
        outcomes = [unpacked(table.loc[ids]) for table in said]
        predicted = np.stack([outcome.predicted for outcome in outcomes])
        return Arm(outcomes[0].classes, tuple(ids), outcomes[0].label, predicted)

    def _said(self, run: Experiment, split: str, ablation: str | None) -> pd.DataFrame:
        """Predictions of a run, kept in its folder. A look at the test set is logged there."""
        folder = self.home / run.name
        path = folder / f"predictions-{'-'.join(filter(None, (split, ablation)))}.csv"
        if path.exists():
            return read_predictions(path)
        trained, rows = load_run(folder), split_rows(self.manifest, split)
        if split == "test":
            log_look(folder, {"images": len(rows), "split": split, "manifest": "study", "ablation": ablation})
        if ablation is None:
            probabilities = predict_rows(trained, rows, self.root)
        else:
            probabilities = predict_ablated(trained, rows, self.root, ablation)
        write_table(predictions_table(rows, probabilities, trained.classes), path)
        return read_predictions(path)


def resampled(arm: Arm) -> Samples:
    """Accuracy and macro-F1, mean over the seeds: of all images and seeds, and of 2000 draws of both."""
    rng = np.random.default_rng(0)
    seeds, images = arm.predicted.shape
    k = len(arm.classes)
    of_image = np.vstack([np.ones(images), rng.multinomial(images, np.full(images, 1 / images), RESAMPLES)])
    of_seed = np.vstack([np.ones(seeds), rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)]) / seeds
    accuracy, macro_f1 = np.zeros((2, 1 + RESAMPLES))
    for weight, predicted in zip(of_seed.T, arm.predicted, strict=True):
        cells = np.zeros((images, k * k))
        cells[np.arange(images), arm.label * k + predicted] = 1
        found = scores((of_image @ cells).reshape(-1, k, k))
        accuracy += weight * found.accuracy
        macro_f1 += weight * found.macro_f1
    return Samples(accuracy, macro_f1)


def verdict(claim: str, split: str, better: Arm, worse: Arm) -> Verdict:
    """Whether the first arm has the higher macro-F1: yes, the opposite, or not to be told from these images.

    Args:
        claim: in words.
        split: that both arms are of.
        better: seed i of it is paired with seed i of the other, image by image.
        worse: with as many seeds.
    """
    ids = sorted(set(better.image_ids) & set(worse.image_ids))
    better, worse = (_of_images(arm, ids) for arm in (better, worse))
    difference, low, high = interval(resampled(better).macro_f1 - resampled(worse).macro_f1)
    answer = SHOWN if low > 0 else OPPOSITE if high < 0 else OPEN
    return Verdict(claim, split, answer, difference, low, high, len(ids), len(better.predicted))


def interval(samples: np.ndarray) -> tuple[float, float, float]:
    """The figure, and the ends of its 95 % interval."""
    low, high = np.quantile(samples[1:], (0.025, 0.975))
    return float(samples[0]), float(low), float(high)


def _of_images(arm: Arm, ids: list[str]) -> Arm:
    columns = [arm.image_ids.index(image) for image in ids]
    return Arm(arm.classes, tuple(ids), arm.label[columns], arm.predicted[:, columns])


class Best(NamedTuple):
    """The run of Table 2: its name, and its summaries (see `classify.evaluate.summary`) on val and, if asked, test."""

    name: str
    arch: str
    val: dict[str, Any]
    test: dict[str, Any] | None


class Findings(NamedTuple):
    """All that the report says, apart from pictures; tables as the functions of this module make them.

    Attributes:
        classes: sorted.
        counts: images by split (train, val) and label.
        lead: the architecture that is trained with many seeds.
        histories: part of the plan -> name of a run -> its epochs.
        failed: name of a run -> why it has no result.
        training_images: of each of the two arms of "curation", by label.
    """

    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    lead: str
    verdicts: pd.DataFrame
    preliminary: pd.DataFrame
    heads: pd.DataFrame
    unfrozen: pd.DataFrame
    against_head: pd.DataFrame
    best: Best | None
    colour: pd.DataFrame
    rates: pd.DataFrame
    optimizers: pd.DataFrame
    baselines: pd.DataFrame
    curation: pd.DataFrame
    training_images: dict[str, int]
    histories: dict[str, dict[str, pd.DataFrame]]
    failed: dict[str, str]


def findings(study: Study, parts: dict[str, Arms], starts: Starts, guesses: Guesses) -> Findings:
    """What the finished runs of a plan show."""
    used, classes = check_rows(study.manifest)
    best = best_run(study, parts)  # first: its evaluation on test leaves the predictions that others would look for
    colour = {
        f"{COLOUR}, seen in colour": Side(parts["colour"][COLOUR]),
        f"{COLOUR}, seen in grey": Side(parts["colour"][COLOUR], GRAYSCALE),
        f"{GREY}, seen in grey": Side(parts["colour"][GREY]),
    }
    curation = parts.get("curation", {})
    trained_on = [runs[0].manifest.query("split == 'train'")["label"] for runs in curation.values()]
    return Findings(
        classes=classes,
        counts=split_counts(used),
        lead=parts["preliminary"][RANDOM][0].config.arch,
        verdicts=pd.DataFrame(verdicts(study, parts, guesses)),
        preliminary=seeded_runs(study, {name: Side(runs) for name, runs in parts["preliminary"].items()}),
        heads=single_runs(study, parts["heads"], starts),
        unfrozen=single_runs(study, parts["unfrozen"], starts),
        against_head=against_head(study, parts),
        best=best,
        colour=seeded_runs(study, colour),
        rates=rates(study, parts["optimizers"]),
        optimizers=optimizers(study, parts["optimizers"]),
        baselines=figures(guesses),
        curation=seeded_runs(study, {name: Side(runs) for name, runs in curation.items()}),
        training_images=trained_on[0].value_counts().sort_index().to_dict() if trained_on else {},
        histories={part: _histories(study, parts[part]) for part in ("preliminary", "heads", "unfrozen")},
        failed=study.failed,
    )


class Side(NamedTuple):
    """One side of a claim: runs, and what is done to the images that they see."""

    runs: list[Experiment]
    ablation: str | None = None


def verdicts(study: Study, parts: dict[str, Arms], guesses: Guesses) -> list[Verdict]:
    """Every claim of the study, on every split that is looked at; what could not be examined says why."""
    found = [_by_runs(study, split, *claim) for split in study.splits for claim in _claims(study, parts)]
    return [*found, _by_baselines(study, parts, guesses)]


def _claims(study: Study, parts: dict[str, Arms]) -> list[tuple[str, Side | None, Side | None, str]]:
    """(claim, what should be better, what should be worse, why one of them is missing)."""
    sides = {name: Side(runs) for part in ("preliminary", "curation") for name, runs in parts.get(part, {}).items()}
    best = {name: Side(runs) for name, runs in tuned(study, parts["optimizers"]).items()}
    colour, grey = parts["colour"][COLOUR], parts["colour"][GREY]
    no_weights, no_scraped = "no architecture has pretrained weights", "no scraped manifest is given"
    return [
        (BY_INIT, sides.get(PRETRAINED), sides[RANDOM], no_weights),
        (BY_HEAD, sides.get(HEAD), sides[RANDOM], no_weights),
        (BY_CURATION, sides.get(BALANCED), sides.get(SCRAPED), no_scraped),
        *(
            (
                f"SGD generalises better than {NAMES[name]}",
                best.get("sgd"),
                best.get(name),
                "no rate trained to the end",
            )
            for name in list(NAMES)[1:]
        ),
        (BY_COLOUR, Side(colour), Side(colour, GRAYSCALE), ""),
        (BY_GREY, Side(colour), Side(grey), ""),
    ]


def _by_runs(study: Study, split: str, claim: str, better: Side | None, worse: Side | None, why_not: str) -> Verdict:
    if better is None or worse is None:
        return not_examined(claim, split, why_not)
    pairs = [
        pair for pair in zip(better.runs, worse.runs, strict=True) if not {run.name for run in pair} & set(study.failed)
    ]
    if not pairs:
        return not_examined(claim, split, "no run came to an end")
    one, other = map(list, zip(*pairs, strict=True))
    return verdict(claim, split, study.arm(one, split, better.ablation), study.arm(other, split, worse.ablation))


def _by_baselines(study: Study, parts: dict[str, Arms], guesses: Guesses) -> Verdict:
    """The head of many seeds against the classical classifier that cross-validation on train puts first."""
    runs = _finished(study, parts["colour"][COLOUR])
    if not runs:
        return not_examined(BY_NETWORK, "val", "no run came to an end")
    name = max(guesses.cross_validated, key=lambda name: guesses.cross_validated[name])
    order = np.argsort(guesses.image_ids)
    predicted = np.tile(guesses.predicted[name][order], (len(runs), 1))
    classical = Arm(guesses.classes, tuple(sorted(guesses.image_ids)), guesses.label[order], predicted)
    return verdict(f"{BY_NETWORK} ({name})", "val", study.arm(runs, "val"), classical)


def not_examined(claim: str, split: str, why: str) -> Verdict:
    """A claim that nothing can be said about."""
    return Verdict(claim, split, f"not examined: {why}", math.nan, math.nan, math.nan, 0, 0)


def single_runs(study: Study, arms: Arms, starts: Starts) -> pd.DataFrame:
    """Table 1, and that of Fig. 6: a row a run, with what it started from; those that failed say why."""
    rows = []
    for arm, (run,) in arms.items():
        random = run.config.weights == "none"
        row: dict[str, Any] = {"run": arm, "start": "random weights" if random else "ImageNet"}
        if why := study.failed.get(run.name, ""):
            rows.append({**row, "note": why})
            continue
        metrics = study.metrics(run)
        best = study.history(run).iloc[metrics["best_epoch"] - 1]
        rows.append(
            {
                **row,
                **_judged(metrics["val"]),
                "macro_recall": metrics["val"]["macro_recall"],
                "macro_precision": metrics["val"]["macro_precision"],
                "val_loss": metrics["val"]["loss"],
                "train_loss": best["train_loss"],
                "best_epoch": metrics["best_epoch"],
                "epochs": metrics["epochs_run"],
                "seconds": metrics["seconds"],
                "note": starts[run.config.arch].why_random,
            }
        )
    return pd.DataFrame(rows)


def against_head(study: Study, parts: dict[str, Arms]) -> pd.DataFrame:
    """Every run with more than a head that trains, against the head of the same architecture, on the same val images.

    Returns:
        `run`, `macro_f1_difference`, `low`, `high`, and of McNemar's test `only_this_right`, `only_head_right`, `p`.
    """
    rows = []
    for name, (run,) in parts["unfrozen"].items():
        pair = [run, *parts["heads"][run.config.arch]]
        if len(_finished(study, pair)) < 2:
            continue
        arm = study.arm(pair, "val")
        this, head = arm.predicted
        difference, low, high = paired_macro_f1(arm.label, this, head, len(arm.classes))
        ours, theirs, p = mcnemar(arm.label, this, head)
        figures = {"macro_f1_difference": difference, "low": low, "high": high}
        rows.append({"run": name, **figures, "only_this_right": ours, "only_head_right": theirs, "p": p})
    return pd.DataFrame(rows)


def seeded_runs(study: Study, arms: dict[str, Side]) -> pd.DataFrame:
    """A row an arm and split: means over the seeds, with their intervals."""
    rows = []
    for split in study.splits:
        for name, side in arms.items():
            runs = _finished(study, side.runs)
            row: dict[str, Any] = {"arm": name, "split": split, "seeds": len(runs)}
            if runs:
                arm = study.arm(runs, split, side.ablation)
                row |= {"images": len(arm.image_ids), **_mean(resampled(arm))}
            rows.append(row)
    return pd.DataFrame(rows, columns=SEEDED)


def tuned(study: Study, arms: Arms) -> dict[str, list[Experiment]]:
    """Optimizer -> its runs at the learning rate with the highest macro-F1 on val, mean over the seeds."""
    grid = rates(study, arms)
    best = grid.dropna(subset="macro_f1").sort_values("macro_f1", ascending=False, kind="stable")
    return {name: arms[best[best["optimizer"] == name]["arm"].iloc[0]] for name in best["optimizer"].unique()}


def rates(study: Study, arms: Arms) -> pd.DataFrame:
    """Every learning rate of every optimizer: `arm`, `optimizer`, `rate`, `macro_f1` on val (mean), `failed` (runs)."""
    rows = []
    for arm, runs in arms.items():
        found = [study.metrics(run)["val"]["macro_f1"] for run in _finished(study, runs)]
        settings, failed = runs[0].config, len(runs) - len(found)
        mean = float(np.mean(found)) if found and not failed else math.nan
        rows.append((arm, settings.optimizer, settings.learning_rate, mean, failed))
    return pd.DataFrame(rows, columns=["arm", "optimizer", "rate", "macro_f1", "failed"])


def optimizers(study: Study, arms: Arms) -> pd.DataFrame:
    """Each optimizer at its best rate: figures on every split and, on the same scale, on the images it learned from.

    Returns:
        As `seeded_runs`, and `rate`, `train_accuracy` (plain images, evaluation mode), `gap` (that less `accuracy`).
    """
    best = tuned(study, arms)
    table = seeded_runs(study, {name: Side(runs) for name, runs in best.items()})
    learned = {name: float(resampled(study.arm(runs, "train")).accuracy[0]) for name, runs in best.items()}
    table["rate"] = table["arm"].map({name: runs[0].config.learning_rate for name, runs in best.items()})
    table["train_accuracy"] = table["arm"].map(learned)
    return table.assign(gap=table["train_accuracy"] - table["accuracy"], arm=table["arm"].map(NAMES))


def best_run(study: Study, parts: dict[str, Arms]) -> Best | None:
    """Of the single runs (Table 1, Fig. 6) the one with the highest macro-F1 on val, the earliest of equals."""
    runs = _finished(study, [run for part in ("heads", "unfrozen") for (run,) in parts[part].values()])
    if not runs:
        return None
    run = max(runs, key=lambda run: study.metrics(run)["val"]["macro_f1"])
    test = _test_of(study, run) if "test" in study.splits else None
    return Best(run.name, run.config.arch, study.metrics(run)["val"], test)


def _test_of(study: Study, run: Experiment) -> dict[str, Any]:
    """What an ordinary evaluation on split test finds; not made twice."""
    path = study.home / run.name / "evaluation-test.json"
    if not path.exists():
        evaluate_run(study.home / run.name, study.manifest, study.root, split="test")
    return dict(json.loads(path.read_text()))


def _histories(study: Study, arms: Arms) -> dict[str, pd.DataFrame]:
    """Of the first run of every arm."""
    return {name: study.history(runs[0]) for name, runs in arms.items() if _finished(study, runs[:1])}


def _finished(study: Study, runs: list[Experiment]) -> list[Experiment]:
    return [run for run in runs if run.name not in study.failed]


def _judged(val: dict[str, Any]) -> dict[str, float]:
    """Accuracy and macro-F1 of a summary, with the ends of their intervals."""
    row: dict[str, float] = {}
    for name in ("accuracy", "macro_f1"):
        low, high = val["interval_95"][name]
        row |= {name: val[name], f"{name}_low": low, f"{name}_high": high}
    return row


def _mean(samples: Samples) -> dict[str, float]:
    row: dict[str, float] = {}
    for name, values in samples._asdict().items():
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), interval(values), strict=True))
    return row
