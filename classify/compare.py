"""Runs side by side: their curves, their figures with intervals, and paired tests on the images they share."""

import html
import json
import logging
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import binomtest

from classify.evaluate import OWN_VAL
from classify.figures import png
from classify.predictions import read_predictions, unpacked
from classify.report import inline, no_math, table_html, write_page, write_table
from classify.scores import RESAMPLES, bootstrap, confusion_matrix, scores
from curate.errors import CurateError

log = logging.getLogger("classify")

CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
SETTINGS = ("arch", "freeze", "weights")
TESTS = ("shared", "only_run", "only_baseline", "p", "difference", "difference_low", "difference_high")
WIDTH = 11  # inches of the curves
DIVERGED = 30  # a loss that is so many times the median: on a linear scale it alone would be seen
ABOUT = (
    "Each run is tested against this one on the images that both were validated on. McNemar's exact test: of the images"
    " that only one of the two gets right, does either get more (p; corrected for the number of comparisons "
    "after Holm)? And the difference of the macro-F1, run less this one, with its 95 % interval (paired bootstrap). "
    "Epochs and the best run were chosen on these same images, so that all figures are somewhat too good and the "
    "p-values somewhat too small: the test set decides, once."
)


class Run(NamedTuple):
    """What is compared of a finished run: its settings, history.csv, metrics.json and predictions-val.csv."""

    name: str
    folder: Path
    config: dict[str, Any]
    history: pd.DataFrame
    metrics: dict[str, Any]
    predictions: pd.DataFrame


def compare_runs(runs: list[Path], out: Path, *, baseline: Path | None = None, seed: int = 0) -> pd.DataFrame:
    """Compare finished runs; writes compare.html (opens offline) and compare.csv into `out`.

    Runs that are unfinished or damaged are left out and named, in a warning and on the page, with the cause.

    Args:
        runs: their folders; `out` among them is passed over.
        out: made if need be.
        baseline: the run that the others are tested against; the one with the best macro-F1 if not given.
        seed: of the resampling.

    Returns:
        A row a run, the best macro-F1 first: `run`, `arch`, `freeze`, `weights`, `best_epoch`, `images`, `accuracy`,
        `macro_f1` (each with `_low`, `_high`, 95 %), `parameters` (that train; missing where the run does not say),
        `seconds`; and against the baseline, missing in its own row: `shared` (images), `only_run`, `only_baseline`
        (images that only one gets right), `p`, `p_holm`, `difference`, `difference_low`, `difference_high`.

    Raises:
        CurateError: no run is left, the baseline is left out, or a run shares no image with it.
    """
    folders = _folders([*runs, *([baseline] if baseline else [])], out)
    found, left_out = _read_all(folders)
    if not found:
        raise CurateError(f"no run to compare. {' '.join(left_out) or 'Give run folders, such as runs/*.'}")
    table = pd.DataFrame([_figures(run, seed) for run in found])
    table["parameters"] = table["parameters"].astype("Int64")
    best = found[int(table["macro_f1"].argmax())] if baseline is None else _named(baseline, found, left_out)
    tests = pd.DataFrame([_against(run, best, seed) for run in found], columns=TESTS)
    tests = tests.astype(dict.fromkeys(("shared", "only_run", "only_baseline"), "Int64"))
    tests.insert(TESTS.index("p") + 1, "p_holm", holm(tests["p"].to_numpy(float)))
    remarks = [*_other_images(found, best, tests["shared"]), *left_out]
    for text in left_out:
        log.warning("%s", text)
    table = pd.concat([table, tests], axis=1).sort_values("macro_f1", ascending=False, kind="stable", ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    write_table(table, out / "compare.csv")
    _page(found, table, best, remarks, out / "compare.html")
    return table


def mcnemar(label: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of whether two classifiers are right equally often, on the same images.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947. Of the
    images that only one of the two gets right, each is as likely to have either: a binomial test with 1/2, two-sided.

    Args:
        label: (n,) class indices, or names.
        first: what one classifier says, of the same kind.
        second: what the other says.

    Returns:
        b, images that only the first gets right; c, only the second; the p-value, 1 where there is no such image.
    """
    right, other = np.asarray(first) == np.asarray(label), np.asarray(second) == np.asarray(label)
    b, c = int((right & ~other).sum()), int((~right & other).sum())
    return b, c, float(binomtest(b, b + c).pvalue) if b + c else 1.0


def paired_macro_f1(
    label: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int, seed: int = 0
) -> tuple[float, float, float]:
    """Macro-F1 of the first less that of the second, on the same images, with its 95 % interval.

    The images are resampled with replacement, 2000 times, both classifiers on the same draw (percentile interval). As
    everywhere, the average is over the classes that have an image; in a resample, over those drawn.

    Args:
        label: (n,) class indices below `classes`, n at least 1.
        first: (n,) class indices, what one classifier says.
        second: (n,) what the other says.
        classes: how many there are.
        seed: of the resampling.

    Returns:
        The difference, and the ends of its interval.
    """
    triples, counts = np.unique(np.stack([label, first, second]), axis=1, return_counts=True)
    images = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(images, counts / images, RESAMPLES)
    every = np.vstack([counts, drawn])  # what was seen, then the resamples

    def macro_f1(predicted: np.ndarray) -> np.ndarray:
        cells = np.zeros((len(counts), classes * classes))
        cells[np.arange(len(counts)), triples[0] * classes + predicted] = 1
        return scores((every @ cells).reshape(-1, classes, classes)).macro_f1

    differences = macro_f1(triples[1]) - macro_f1(triples[2])
    low, high = np.quantile(differences[1:], (0.025, 0.975))
    return float(differences[0]), float(low), float(high)


def curves_figure(histories: dict[str, pd.DataFrame]) -> Figure:
    """Loss and accuracy by epoch of several runs, as Figs 3, 4 and 6 of the study: train solid, val dashed.

    Every run has a colour.

    Args:
        histories: name of the run -> its history.csv: `epoch`, and `loss` and `accuracy` of `train` and `val`.
    """
    names = [no_math(name) for name in histories]
    columns = max(1, min(5, len(names) + 2, int(WIDTH / (0.6 + 0.09 * max(map(len, names), default=0)))))
    rows = -(-(len(names) + 2) // columns)
    figure = Figure(figsize=(WIDTH, 4.1 + 0.2 * rows), layout="constrained")
    axes = figure.subplots(1, 2)
    map_name = "tab10" if len(histories) <= 10 else "turbo"
    colours = colormaps[map_name](np.arange(10) if len(histories) <= 10 else np.linspace(0, 1, len(histories)))
    for history, colour in zip(histories.values(), colours, strict=False):
        for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
            axis.plot(history["epoch"], history[f"train_{name}"], "-", color=colour)
            axis.plot(history["epoch"], history[f"val_{name}"], "--", color=colour)
    for axis, name in zip(axes, ("cross-entropy, weighted by class", "accuracy"), strict=True):
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
    losses = np.concatenate(
        [history[["train_loss", "val_loss"]].to_numpy(float).ravel() for history in histories.values()]
    )
    if np.nanmax(losses) > DIVERGED * np.nanmedian(losses):
        axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1.02)
    lines = [Line2D([], [], color=colour) for _, colour in zip(histories, colours, strict=False)]
    styles = [Line2D([], [], color="black", linestyle=style) for style in ("-", "--")]
    figure.legend([*lines, *styles], [*names, "train", "val"], loc="outside lower center", ncols=columns)
    return figure


def holm(p: np.ndarray) -> np.ndarray:
    """p-values after Holm's step-down correction, (n,); NaN ones are no comparisons and stay.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    out = np.array(p, float)
    order = np.argsort(out)[: int((~np.isnan(out)).sum())]  # NaN sorts last
    steps = out[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return out


def read_run(folder: Path, name: str) -> Run:
    """A finished run.

    Raises:
        CurateError: it is no run, unfinished or damaged.
    """
    config = _read_json(folder / "config.json", "it is no run of `classify train`")
    metrics = _read_json(folder / "metrics.json", "the run is not finished; the same `classify train` goes on with it")
    settings = config.get("config")
    if not isinstance(settings, dict) or any(key not in settings for key in SETTINGS):
        raise CurateError(f"config.json is damaged: not the settings of a run, with {', '.join(SETTINGS)}.")
    numbers = [metrics.get(key) for key in ("best_epoch", "seconds")]
    if not all(isinstance(number, int | float) for number in numbers):
        raise CurateError("metrics.json is damaged: no best_epoch or no seconds.")
    predictions = read_predictions(folder / OWN_VAL)
    return Run(name, folder, settings, _read_history(folder / "history.csv"), metrics, predictions)


def _folders(runs: list[Path], out: Path) -> dict[str, Path]:
    """Each folder once, by its name, or its path where two have the same name."""
    unique = {run.resolve(): run for run in runs if run.resolve() != out.resolve()}
    names = [path.name for path in unique]
    return {path.name if names.count(path.name) == 1 else str(given): path for path, given in unique.items()}


def _read_all(folders: dict[str, Path]) -> tuple[list[Run], list[str]]:
    """The runs, and a sentence for each that is left out."""
    found, left_out = [], []
    for name, folder in folders.items():
        try:
            found.append(read_run(folder, name))
        except CurateError as error:
            left_out.append(f"{name} is left out: {error}")
    return found, left_out


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    if not path.is_file():
        raise CurateError(f"{path.name} is missing: {missing}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CurateError(f"{path.name} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise CurateError(f"{path.name} is damaged: it holds {type(content).__name__}, not settings.")
    return content


def _read_history(path: Path) -> pd.DataFrame:
    try:
        history = pd.read_csv(path)
        return history.astype(dict.fromkeys(CURVES, float) | {"epoch": int})
    except (OSError, ValueError, KeyError) as error:
        raise CurateError(f"history.csv is missing or damaged: {error}.") from error


def _named(baseline: Path, found: list[Run], left_out: list[str]) -> Run:
    for run in found:
        if run.folder == baseline.resolve():
            return run
    raise CurateError(f"--baseline {baseline} cannot be compared with. {' '.join(left_out)}")


def _figures(run: Run, seed: int) -> dict[str, Any]:
    outcome = unpacked(run.predictions)
    matrix = confusion_matrix(outcome.label, outcome.predicted, len(outcome.classes))
    found, intervals = scores(matrix), bootstrap(matrix, seed=seed)
    return {
        "run": run.name,
        **{key: PurePath(str(run.config[key])).name for key in SETTINGS},
        "best_epoch": int(run.metrics["best_epoch"]),
        "images": len(outcome.label),
        **_with_interval("accuracy", float(found.accuracy), intervals["accuracy"]),
        **_with_interval("macro_f1", float(found.macro_f1), intervals["macro_f1"]),
        "parameters": trained if isinstance(trained := run.metrics.get("parameters"), int) else None,
        "seconds": float(run.metrics["seconds"]),
    }


def _with_interval(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _against(run: Run, baseline: Run, seed: int) -> dict[str, Any]:
    """The tests of a run against the baseline, by `TESTS`; nothing of the baseline itself."""
    if run is baseline:
        return {}
    both = run.predictions.merge(baseline.predictions, on="image_id", suffixes=("", "_baseline"))
    both = both[both["label"] == both["label_baseline"]]
    if both.empty:
        raise CurateError(
            f"{run.name} and {baseline.name} share no validation image (of {len(run.predictions)} and "
            f"{len(baseline.predictions)}) under the same label: they cannot be compared. Train them on the same "
            "manifest, or leave one out."
        )
    classes = pd.Index(sorted(set(both["label"]) | set(both["predicted"]) | set(both["predicted_baseline"])))
    label, first, second = (classes.get_indexer(both[name]) for name in ("label", "predicted", "predicted_baseline"))
    only_run, only_baseline, p = mcnemar(label, first, second)
    difference, low, high = paired_macro_f1(label, first, second, len(classes), seed)
    return {
        "shared": len(both),
        "only_run": only_run,
        "only_baseline": only_baseline,
        "p": p,
        **_with_interval("difference", difference, (low, high)),
    }


def _other_images(found: list[Run], baseline: Run, shared: pd.Series) -> list[str]:
    """A sentence for each run that was not validated on the images of the baseline."""
    remarks = []
    for run, common in zip(found, shared, strict=True):
        images = (len(run.predictions), len(baseline.predictions))
        if run is not baseline and images != (common, common):
            remarks.append(
                f"{run.name} and {baseline.name} were not validated on the same images: {images[0]} and {images[1]}, "
                f"of which {common} are shared, under the same label. Only these are compared; the other figures "
                "of the two are of different images."
            )
    return remarks


def _page(found: list[Run], table: pd.DataFrame, best: Run, remarks: list[str], path: Path) -> None:
    histories = {run.name: run.history for run in found}
    figure = png(curves_figure({name: histories[name] for name in table["run"]}))
    body = f"<h2>Curves</h2><img alt='Loss and accuracy by epoch' src='{inline(figure, 'png')}'>"
    body += "".join(f"<p>{html.escape(text)}</p>" for text in remarks)
    shown = table[["run", *SETTINGS, "best_epoch", "images"]].rename(columns={"best_epoch": "best epoch"})
    shown["accuracy, % (95 % interval)"] = _shares(table, "accuracy")
    shown["macro-F1, % (95 % interval)"] = _shares(table, "macro_f1")
    shown["parameters that train"] = ["-" if pd.isna(number) else f"{number:,}" for number in table["parameters"]]
    shown["seconds"] = table["seconds"].map("{:,.0f}".format)
    body += f"<h2>Validation</h2>{table_html(shown)}"
    if len(found) > 1:
        body += f"<h2>Against {html.escape(best.name)}</h2><p>{ABOUT}</p>"
        body += table_html(_shown_tests(table[table["run"] != best.name]))
    write_page(f"{len(found)} runs compared", body, path)


def _shown_tests(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["run", "shared", "only_run", "only_baseline"]].set_axis(
        ["run", "images of both", "only this run right", "only the other right"], axis=1
    )
    shown["p"], shown["p, Holm"] = (table[name].map("{:.3g}".format) for name in ("p", "p_holm"))
    return shown.assign(**{"macro-F1 less the other's, % (95 % interval)": _shares(table, "difference")})


def _shares(table: pd.DataFrame, name: str) -> list[str]:
    ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return [f"{100 * value:.2f} ({100 * low:.2f} to {100 * high:.2f})" for value, low, high in ends]
