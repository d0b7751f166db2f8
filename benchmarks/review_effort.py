"""How many decisions a reviewer needs to find the bad images, and to fill the classes, by the order of the queue.

    python -m benchmarks.review_effort              # with the peers of `make peers`
    python -m benchmarks.review_effort --out DIR    # the curves as a picture too

The reviewer answers by an expert's verdicts, a doubtful one too; `clear` has the figures without the doubtful images.
Two aims: to find 95 % of the bad images, and to accept 40 images in every class (full classes come last, in every
order). Orders:

    ours              the review queue from a cold start, the screen refitted after every ten decisions: the most
                      suspicious first; the likely good ones first, to fill the classes
    ours_pixels       the same with measures of the pixels alone in sight
    random            the mean of twenty draws
    cleanvision       the lowest score first, of all the issues that it looks for by default
    cleanlab          the lowest label quality first, by five-fold cross-validated logistic regression on the embeddings
    cleanlab_outlier  the lowest of its out-of-distribution scores first, on the same embeddings
    oracle            the least that is possible

To fill the classes the orders are reversed. cleanlab's label quality asks whether a label is right, which is another
question than whether an image is fit; it is what one would sort by.

Intervals (95 %) are of a jackknife that leaves out a fifth of the images at a time (Shao and Wu, Annals of Statistics,
1989).
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from benchmarks.options import arguments, read_truth
from benchmarks.verdicts import Pool, embed, measure, pool_of, review, screened
from curate.console import print_table, progress_bars

PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"
SHARE = 0.95
TARGET = 40
SEEDS = 20
SUBSETS, LEFT_OUT = 10, 0.2  # of the jackknife
TENTHS = np.arange(1, 11) / 10
Order = Callable[
    [Pool, np.ndarray, int | None], np.ndarray
]  # pool, its rows in the table, keepers wanted of each class
Curves = dict[str, np.ndarray]  # order -> share reached after each decision; of draws by chance one row each


def main() -> None:
    parser = arguments(__doc__, "no intervals, two draws by chance, without the peers")
    parser.add_argument("--out", type=Path, default=None, help="folder for the picture of the curves [default: none]")
    options = parser.parse_args()
    truth = read_truth(options)
    if truth is None:
        return
    started = time.perf_counter()
    embeddings, key = embed(truth, options.photos, options.weights)
    measures = measure(truth, options.photos, embeddings, key)
    effort = Effort(truth, embeddings, measures, draws=2 if options.quick else SEEDS)
    if not options.quick and PEERS.exists():
        effort.orders |= {name: by_score(s) for name, s in ask_peers(truth, options.photos, embeddings).items()}
    elif not options.quick:
        print("without CleanVision and cleanlab: `make peers` installs them")
    outcome, find, fill = effort.whole(np.arange(len(truth)))
    parts = {
        "clear": ("without the doubtful images", truth["doubtful"].astype(int).eq(0)),
    }
    for name, (words, of) in parts.items():
        if 0 < of.sum() < len(truth):
            print(f"\nThe same {words}:")
            outcome[name] = effort.whole(np.flatnonzero(of))[0]
    if not options.quick:
        outcome |= effort.intervals(outcome)
    if options.out:
        draw(find, fill, options.out / "review_effort.png")
    print(json.dumps({**outcome, "seconds": round(time.perf_counter() - started, 1)}))


class Effort:
    """Reviews of the photos, or of a part of them, in each order."""

    def __init__(
        self, truth: pd.DataFrame, embeddings: np.ndarray, measures: dict[str, pd.DataFrame], draws: int
    ) -> None:
        self.truth, self.embeddings, self.measures = truth, embeddings, measures
        self.orders: dict[str, Order] = {f"ours{name}": partial(self._ours, name) for name in measures}
        self.orders["oracle"] = oracle
        self.draws = draws

    def whole(self, rows: np.ndarray) -> tuple[dict, Curves, Curves]:
        """The figures of these rows, printed; and the curves of finding the bad ones, and of filling the classes."""
        pool = self._pool(rows)
        figures: dict = {"images": len(rows), "bad": int(pool.bad.sum())}
        curves = {}
        for target, word, share in ((None, "95", SHARE), (TARGET, "keepers", 1.0)):
            curves[word] = curves_of(pool, self._done(pool, rows, target), target)
            figures |= until(curves[word], share, word)
        print_figures(figures, curves["95"])
        return figures, curves["95"], curves["keepers"]

    def intervals(self, outcome: dict) -> dict:
        """95 % of each figure, and of how many decisions ours takes less than each other order."""
        parts, size = [], len(self.truth)
        with progress_bars() as progress:
            for seed in range(SUBSETS):
                rows = np.sort(np.random.default_rng(seed).permutation(size)[: round((1 - LEFT_OUT) * size)])
                pool, found = self._pool(rows), dict[str, float]()
                for target, word, share in ((None, "95", SHARE), (round((1 - LEFT_OUT) * TARGET), "keepers", 1.0)):
                    found |= until(curves_of(pool, self._done(pool, rows, target), target), share, word)
                parts.append({name: value * size / len(rows) for name, value in found.items()})
                progress("subsets", seed + 1, SUBSETS)
        table = pd.DataFrame(parts)
        mine = {name: f"ours_{name.rsplit('_', 1)[1]}" for name in table}
        saved = {
            name: jackknifed(table[name] - table[mine[name]], outcome[name] - outcome[mine[name]]) for name in table
        }
        return {
            "intervals": {name: jackknifed(table[name], outcome[name])[1:] for name in table},
            "ours_saves": {name: figures for name, figures in saved.items() if name != mine[name]},
        }

    def _pool(self, rows: np.ndarray, name: str = "") -> Pool:
        return pool_of(self.truth.iloc[rows], self.embeddings[rows], self.measures[name].iloc[rows])

    def _ours(self, name: str, _: Pool, rows: np.ndarray, target: int | None) -> np.ndarray:
        pool = self._pool(rows, name)
        return review(pool, screened(pool, "suspicious" if target is None else "good"), len(rows), target)

    def _done(self, pool: Pool, rows: np.ndarray, target: int | None) -> dict[str, list[np.ndarray]]:
        """Order -> rows as they are decided; of draws by chance several."""
        done = {name: [order(pool, rows, target)] for name, order in self.orders.items()}
        draws = (np.random.default_rng(seed).permutation(len(rows)) for seed in range(self.draws))
        return {**done, "random": [fixed(pool, order, target) for order in draws]}


def ask_peers(truth: pd.DataFrame, photos: Path, embeddings: np.ndarray) -> dict[str, np.ndarray]:
    """Method -> (n,) scores, the least fit lowest."""
    labels = pd.Categorical(truth["label"]).codes
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(max_iter=2000)
    probabilities = cross_val_predict(model, embeddings, labels, cv=folds, method="predict_proba")
    with tempfile.TemporaryDirectory() as folder:
        arrays, out = Path(folder) / "arrays.npz", Path(folder) / "scores.json"
        np.savez(arrays, labels=labels.astype(int), probabilities=probabilities, embeddings=embeddings)
        order = {"root": str(photos), "files": truth["file_name"].tolist(), "arrays": str(arrays), "out": str(out)}
        driver = Path(__file__).parent / "peers" / "drive_review.py"
        done = subprocess.run([PEERS, driver], input=json.dumps(order), text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return {name: np.array(scores) for name, scores in json.loads(out.read_text()).items()}


def oracle(pool: Pool, rows: np.ndarray, target: int | None) -> np.ndarray:
    return fixed(pool, np.argsort(~pool.bad if target is None else pool.bad, kind="stable"), target)


def by_score(scores: np.ndarray) -> Order:
    """The lowest score first, or the highest to fill the classes."""

    def order(pool: Pool, rows: np.ndarray, target: int | None) -> np.ndarray:
        return fixed(pool, np.argsort(scores[rows] if target is None else -scores[rows], kind="stable"), target)

    return order


def fixed(pool: Pool, order: np.ndarray, target: int | None) -> np.ndarray:
    """Rows as they are decided in an order that does not learn."""
    return order if target is None else review(pool, lambda _: order, len(order), target)


def curves_of(pool: Pool, done: dict[str, list[np.ndarray]], target: int | None) -> Curves:
    """Share of the bad ones found, or of the keepers wanted, after each decision."""
    return {name: np.array([curve(pool, order, target) for order in orders]) for name, orders in done.items()}


def curve(pool: Pool, done: np.ndarray, target: int | None) -> np.ndarray:
    if target is None:
        return np.cumsum(pool.bad[done]) / pool.bad[done].sum()
    accepted = [np.cumsum((pool.label[done] == label) & ~pool.bad[done]) for label in np.unique(pool.label)]
    wanted = [min(target, kept[-1]) for kept in accepted]  # a class may have fewer
    return sum(np.minimum(kept, most) for kept, most in zip(accepted, wanted, strict=True)) / sum(wanted)


def until(curves: Curves, share: float, word: str) -> dict[str, float]:
    """Decisions until the share is reached, the mean of the draws: `ORDER_WORD`."""
    return {
        f"{name}_{word}": round(float(np.mean(np.argmax(rows >= share - 1e-9, axis=1) + 1)), 1)
        for name, rows in curves.items()
    }


def jackknifed(values: pd.Series, figure: float) -> list[float]:
    """The figure and its 95 % interval, from its values on subsets that leave out a share of the images."""
    error = float(np.sqrt((1 - LEFT_OUT) / LEFT_OUT) * values.std(ddof=1))
    return [round(bound, 1) for bound in (figure, figure - 1.96 * error, figure + 1.96 * error)]


def print_figures(figures: dict, find: Curves) -> None:
    print(f"{figures['images']} images, {figures['bad']} bad. Share of the bad ones found, by the share decided:")
    lines = []
    for name, rows in find.items():
        at = np.maximum(np.round(TENTHS * rows.shape[1]).astype(int), 1) - 1
        decisions = (f"{figures[f'{name}_95']:.0f}", f"{figures[f'{name}_keepers']:.0f}")
        lines.append((name, *(f"{100 * share:.0f} %" for share in rows.mean(axis=0)[at]), *decisions))
    columns = ("order", *(f"{100 * t:.0f} %" for t in TENTHS), f"to {100 * SHARE:.0f} %", f"to {TARGET} a class")
    print_table(columns, lines)


def draw(find: Curves, fill: Curves, path: Path) -> None:
    """Both sets of curves as a picture."""
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    words = ("share of the bad images found", f"share of {TARGET} keepers a class accepted")
    for axes, curves, word in zip(figure.subplots(1, 2), (find, fill), words, strict=True):
        for name, rows in curves.items():
            axes.plot(np.arange(1, rows.shape[1] + 1), rows.mean(axis=0), label=name.replace("_", " "))
        axes.set(xlabel="decisions", ylabel=word, xlim=(0, None), ylim=(0, 1.02))
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
