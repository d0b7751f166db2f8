"""The page of a sweep: its best trials with their intervals, how they came about, and what the settings matter."""

import html
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import TrialState

from classify.figures import png
from classify.report import inline, no_math, table_html, write_page

BEST = 10
FEWEST = 10  # trials that tell something of what a setting matters

ABOUT_IMPORTANCES = (
    "By fANOVA (Hutter et al., ICML 2014): a random forest learns the macro-F1 of {trials} trials from their settings. "
    "They were not spread evenly over the grid, and differ by chance too: a hint, not a measurement."
)

Values = dict[str, tuple[Any, ...]]  # setting -> what was tried of it


def sweep_page(out: Path, table: pd.DataFrame, study: optuna.Study, values: Values, points: int) -> None:
    """Write sweep.html, which opens offline.

    Args:
        out: folder of the sweep.
        table: of `classify.sweep.sweep`, at least one trial complete.
        study: the same trials in the order in which they were started.
        values: of the grid.
        points: of the grid.
    """
    complete, failed = table[table["state"] == "complete"], table[table["state"] == "failed"]
    varied = [name for name, tried in values.items() if len(tried) > 1]
    body = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in _sentences(out, table, points))
    body += f"<h2>The best {min(BEST, len(complete))}</h2>{table_html(_best(complete[:BEST], varied))}"
    pictures = {"Trials in their order": history_figure(study)}
    if varied:
        pictures["Macro-F1 by setting (a line: the median)"] = slice_figure(complete, varied, values)
    if matters := {name: share for name, share in importances(study).items() if name in varied}:
        pictures["Share of the variance that a setting explains"] = importances_figure(matters)
    for title, figure in pictures.items():
        body += f"<h2>{html.escape(title)}</h2><img alt='{html.escape(title)}' src='{inline(png(figure), 'png')}'>"
    if matters:
        body += f"<p>{html.escape(ABOUT_IMPORTANCES.format(trials=len(complete)))}</p>"
    if len(failed):
        body += f"<h2>Failed</h2>{table_html(failed[['run', 'cause']])}"
    write_page(f"Sweep {out.name}", body, out / "sweep.html")


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of the variance of macro-F1 that each setting explains, the largest first; empty where little is known."""
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < FEWEST or len(set(values)) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def history_figure(study: optuna.Study) -> Figure:
    """Macro-F1 of every trial in the order in which they were started, and the best so far; failed ones as crosses."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    number = np.array([trial.number + 1 for trial in trials])
    value = np.array([np.nan if trial.value is None else trial.value for trial in trials])
    axis.plot(number, value, "o", markersize=4, label="a trial")
    axis.step(number, np.fmax.accumulate(value), where="post", label="the best so far")
    if np.isnan(value).any():
        axis.plot(number[np.isnan(value)], np.zeros(np.isnan(value).sum()), "x", color="C3", label="failed")
    axis.set(xlabel="trial", ylabel="macro-F1 on split val", ylim=(-0.02, 1.02))
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def slice_figure(complete: pd.DataFrame, varied: list[str], values: Values) -> Figure:
    """Macro-F1 of every trial by each setting that was varied.

    Args:
        complete: the trials that are complete.
        varied: names of settings.
        values: of the grid.
    """
    columns = min(3, len(varied))
    lines = -(-len(varied) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis, name in zip(axes, varied, strict=False):
        _slice(axis, complete[name], complete["macro_f1"].to_numpy(float), values[name])
        axis.set_title(name)
    for axis in axes[len(varied) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("macro-F1 on split val")
    return figure


def importances_figure(matters: dict[str, float]) -> Figure:
    """Bars of `importances`."""
    figure = Figure(figsize=(7, 0.8 + 0.4 * len(matters)), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(list(matters), list(matters.values()))
    axis.bar_label(bars, [f"{share:.0%}" for share in matters.values()], padding=3)
    axis.set(xlim=(0, 1.1 * max(matters.values())), xlabel="share of the variance of macro-F1")
    axis.invert_yaxis()
    return figure


def _sentences(out: Path, table: pd.DataFrame, points: int) -> list[str]:
    complete = table[table["state"] == "complete"]
    best = complete.iloc[0]
    sentences = [
        f"{len(table)} trials of the {points} points of the grid, {len(table) - len(complete)} of them failed. All of "
        "them: trials.csv. Each is a run with a report of its own, in a folder named by its settings.",
    ]
    if pd.isna(best["macro_f1_low"]):
        return sentences
    near = int((complete["macro_f1"] >= best["macro_f1_low"]).sum()) - 1
    others = "None of the other trials lies" if near == 0 else f"{near} of the other trials lie"
    return [
        *sentences,
        f"The best of {len(complete)} was chosen on the same {best['images']:.0f} validation images that its figures "
        "are of: it is the luckiest as well as a good one, and its figures are too high. "
        f"{others} within its 95 % interval ({best['macro_f1_low']:.2%} to {best['macro_f1_high']:.2%}): these images "
        "cannot tell such apart.",
        "The test set was not looked at. Choose one run, then look once: "
        f"classify evaluate {out / str(best['run'])} --split test",
    ]


def _best(complete: pd.DataFrame, varied: list[str]) -> pd.DataFrame:
    """The settings that were varied, as text, and the figures with their intervals."""
    shown = complete[varied].astype(str)
    for figure in ("macro_f1", "accuracy"):
        ends = zip(complete[f"{figure}_low"], complete[f"{figure}_high"], strict=True)
        shown[figure] = [f"{value:.2%}" for value in complete[figure]]
        shown[f"{figure}, 95 % interval"] = ["-" if pd.isna(low) else f"{low:.2%} to {high:.2%}" for low, high in ends]
    return shown.assign(
        best_epoch=complete["best_epoch"].astype("Int64"), seconds=complete["seconds"].round().astype("Int64")
    )


def _slice(axis: Axes, setting: pd.Series, value: np.ndarray, tried: tuple[Any, ...]) -> None:
    place = np.array([tried.index(one) for one in setting])
    spread = np.random.default_rng(0).uniform(-0.2, 0.2, len(value))  # to see points that lie on each other
    axis.plot(place + spread, value, "o", markersize=4, alpha=0.6)
    for i in np.unique(place):
        axis.hlines(np.median(value[place == i]), i - 0.3, i + 0.3, color="black")
    axis.set_xticks(range(len(tried)), [no_math(str(one)) for one in tried], rotation=20)
    axis.grid(alpha=0.3, axis="y")
