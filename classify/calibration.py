"""Whether a classifier is as sure as it is right: calibration error, reliability diagram, temperature scaling.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar

BINS = 15  # as in the paper
DRAWS = 200  # of what chance does to the calibration error
LEAST = 1e-12  # a smaller probability counts as this one in a logarithm
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are looked at


def reliability(probabilities: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """Images by the probability of the class that is predicted, in 15 equal bins; empty bins are left out.

    Args:
        probabilities: (n, classes), rows of sum 1.
        label: (n,) class indices.

    Returns:
        `low`, `high` (the bin holds what is above low and at most high), `images`, `confidence` (mean probability) and
        `accuracy`, both from 0 to 1.
    """
    sure, right = probabilities.max(1).astype(float), probabilities.argmax(1) == label
    number = _bin_of(sure)
    images = np.bincount(number, minlength=BINS)
    least = np.maximum(images, 1)
    bins = pd.DataFrame(
        {
            "low": np.arange(BINS) / BINS,
            "high": np.arange(1, BINS + 1) / BINS,
            "images": images,
            "confidence": np.bincount(number, sure, BINS) / least,
            "accuracy": np.bincount(number, right, BINS) / least,
        }
    )
    return bins[images > 0].reset_index(drop=True)


def calibration_error(bins: pd.DataFrame) -> float:
    """Expected calibration error, 0 to 1: the mean distance of confidence and accuracy over the images.

    Args:
        bins: of `reliability`.
    """
    gap = (bins["accuracy"] - bins["confidence"]).abs()
    return float((gap * bins["images"]).sum() / bins["images"].sum())


def error_by_chance(probabilities: np.ndarray, seed: int = 0) -> float:
    """The calibration error that a calibrated model is to be expected to have, which of few images is not 0.

    Bröcker and Smith, "Increasing the Reliability of Reliability Diagrams", Weather and Forecasting 2007: the same
    images, each right as often as the model is sure of it; the mean of 200 draws.

    Args:
        probabilities: (n, classes).
        seed: of the draws.
    """
    rng, sure = np.random.default_rng(seed), probabilities.max(1).astype(float)
    number = _bin_of(sure)
    expected = np.bincount(number, sure, BINS)
    drawn = [np.bincount(number, rng.random(len(sure)) < sure, BINS) for _ in range(DRAWS)]
    return float(np.abs(np.array(drawn) - expected).sum(1).mean() / len(sure))


def cross_entropy(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats: (n, classes) and (n,)."""
    sure = probabilities[np.arange(len(label)), label].astype(float)
    return float(-np.log(np.maximum(sure, LEAST)).mean())


def fit_temperature(probabilities: np.ndarray, label: np.ndarray) -> float | None:
    """The temperature that makes the labels likeliest (least `cross_entropy`); above 1 the model was too sure.

    It changes no prediction. Fit it on validation images, and judge it on others.

    Args:
        probabilities: (n, classes), of a softmax.
        label: (n,) class indices.

    Returns:
        None where the images do not determine it, as when all are predicted right: the surer, the likelier.
    """

    def loss(log_temperature: float) -> float:
        return cross_entropy(tempered(probabilities, math.exp(log_temperature)), label)

    if (probabilities.argmax(1) == label).all():
        return None
    ends = (math.log(COLDEST), math.log(HOTTEST))
    best = float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4}).x)
    return None if min(best - ends[0], ends[1] - best) < 0.01 else math.exp(best)


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The softmax of logits / temperature, float64 (n, classes), from the softmax of the logits themselves."""
    logits = np.log(np.maximum(probabilities.astype(float), LEAST)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def reliability_figure(parts: dict[str, pd.DataFrame]) -> Figure:
    """Reliability diagrams side by side: accuracy by confidence, on the diagonal where the model is calibrated.

    Args:
        parts: title -> bins of `reliability`.
    """
    figure = Figure(figsize=(4.5 * len(parts), 4.5), layout="constrained")
    axes = figure.subplots(1, len(parts), squeeze=False)[0]
    for axis, (title, bins) in zip(axes, parts.items(), strict=True):
        width = (bins["high"] - bins["low"]).to_numpy()
        bars = axis.bar(bins["low"], bins["accuracy"], width, align="edge", color="C0", edgecolor="white")
        axis.bar_label(bars, [str(images) for images in bins["images"]], fontsize=8, padding=1)
        axis.plot(bins["confidence"], bins["accuracy"], "o", color="black", markersize=4)
        axis.plot([0, 1], [0, 1], "--", color="grey")
        axis.set(xlim=(0, 1), ylim=(0, 1.08), xlabel="probability of the class that is predicted", ylabel="accuracy")
        axis.set_title(f"{title}: calibration error {calibration_error(bins):.3f}")
    return figure


def _bin_of(sure: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(sure * BINS) - 1, 0, BINS - 1).astype(int)
