"""What curating is worth to a classifier: the same training on as many images a class, as scraped and as curated.

    python -m benchmarks.curation_gain

Scraped photos with an expert's verdicts; the expert is the reviewer. For each of ten seeds a fifth of the clear keepers
of each class (verdict keep, not doubtful) is held out, so that two passes of five folds test every one of them twice;
with them all photos of another source (web2/<class>/) of the classes that it shares, which nobody judged. The rest of
the scraped photos, fit or not, are the pool; copies of a test photo (as `curate dedup` verifies them) are left out.

Every arm trains on the same number of images a class: 40, or as many keepers as the pool has where it has fewer.

    scraped        drawn by chance
    decisions_0    the least suspicious before any decision
    decisions_n    the expert decides n images of the pool in the order of review, the most suspicious first; then what
                   `curate balance` takes: those accepted, and those least likely to be rejected. `_good`: the likely
                   good ones first, full classes last. `_random`: in an order drawn by chance. `_drawn`: the
                   images beside those accepted are drawn from all that are likelier kept than rejected
    human          keepers drawn by chance

What chance draws is drawn five times a seed for the linear head, and the mean is taken: another draw can move the
accuracy by several hundredths. The screen sees the measures of an audit, fitted without the class at hand; `_pixels`:
those of the pixels alone.

The linear head is logistic regression on MobileNetV2 embeddings. Fine-tuned: the layers at the lowest resolution and
the head, by the study's recipe (`classify train --freeze last_block`) but for five epochs, with mirroring for all
augmentation, and with the norm layers before them frozen. Nothing was tuned here, but `_drawn` was thought of after the
other arms had been seen. The figure is the mean of the classes' recalls; intervals are 95 % of a bootstrap over both
seeds and test photos (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007).
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmarks.options import arguments, read_truth
from benchmarks.verdicts import Pool, decisions_on, judge, measure, pool_of, review, screened
from classify.data import batches, decode_rows, to_input
from classify.models import build, load_backbone
from classify.train import TrainConfig
from classify.trunk import split, train_mode
from curate.balance import LIMIT, NOVELTY_JUDGED, NOVELTY_UNJUDGED
from curate.console import print_table, progress_bars
from curate.dedup import find_copies
from curate.diversity import choose_varied

PER_CLASS = 40
FOLDS = 5
DECISIONS = (40, 160)
DRAWS = 5  # a seed, of what is drawn by chance; the fine-tuned ones train on the first
FINE_TUNED = ("scraped", "decisions_0", *(f"decisions_{n}" for n in DECISIONS), "human")
RECIPE = TrainConfig(arch="mobilenet_v2", freeze="last_block", epochs=5)
ROUNDS = 1000  # of the bootstrap


def main() -> None:
    options = arguments(__doc__, "two seeds, two epochs").parse_args()
    truth = read_truth(options)
    if truth is None:
        return
    torch.set_num_threads(1)
    started = time.perf_counter()
    files = with_other_source(truth, options.photos)
    print(f"{len(truth)} photos with verdicts, {len(files) - len(truth)} of the other source")
    group = copy_groups(files, options.photos)
    network = Network(files, options.photos, options.weights, epochs=2 if options.quick else RECIPE.epochs)
    measures = measure(truth, options.photos, network.embeddings[: len(truth)], network.key)
    results = []
    with progress_bars() as progress:
        for seed in range(2 if options.quick else 2 * FOLDS):
            results.append(one_seed(files, group, network, measures, seed))
            progress("seeds", seed + 1, 2 if options.quick else 2 * FOLDS)
    outcome = report(pd.concat(results, ignore_index=True))
    print(json.dumps({**outcome, "seconds": round(time.perf_counter() - started, 1)}))


def with_other_source(truth: pd.DataFrame, photos: Path) -> pd.DataFrame:
    """The photos with verdicts, then those of the same classes of the other source, which have none: verdict ""."""
    other = [
        {"file_name": str(path.relative_to(photos)), "label": label}
        for label in sorted(truth["label"].unique())
        for path in sorted((photos / "web2" / label).glob("*"))
    ]
    files = pd.concat([truth, pd.DataFrame(other, columns=["file_name", "label"])], ignore_index=True)
    return files.fillna({"verdict": "", "reason": "", "doubtful": 0})


def copy_groups(files: pd.DataFrame, photos: Path) -> np.ndarray:
    """(n,) number of the photograph that each file shows, as `curate dedup` tells."""
    row_of = {name: row for row, name in enumerate(files["file_name"])}
    with tempfile.TemporaryDirectory() as home, progress_bars() as progress:
        for name in row_of:  # links would lead out of the data root
            (Path(home) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photos / name, Path(home) / name)
        table = pd.DataFrame({"image_id": list(row_of), "file_name": list(row_of)})
        pairs = find_copies(table, Path(home), jobs=1, progress=progress).dropna(subset=["second"])
    ends = (pairs["first"].map(row_of), pairs["second"].map(row_of))
    graph = coo_array((np.ones(len(pairs)), ends), shape=(len(files), len(files)))
    return connected_components(graph, directed=False)[1]


class Network:
    """The classifiers: linear head and fine-tuned, on what the frozen layers gave for every photo, computed once."""

    def __init__(self, files: pd.DataFrame, photos: Path, weights: str, epochs: int) -> None:
        self.weights, self.epochs = weights, epochs
        self.labels = sorted(files["label"].unique())
        self.target = torch.tensor([self.labels.index(label) for label in files["label"]])
        backbone = load_backbone(RECIPE.arch, weights, side=RECIPE.image_size)
        self.key, first = backbone.key, self._new(0)[0]
        layers = list(backbone.trunk.children())
        front, rest = nn.Sequential(*layers[:first]), nn.Sequential(*layers[first:])
        table, plain, mirrored, embeddings = files.assign(image_id=files.index.astype(str)), [], [], []
        with torch.inference_mode():
            for part in batches(np.arange(len(files)), 32):
                images = decode_rows(table, photos, part, RECIPE.image_size)
                if broken := [table["file_name"].iloc[image.row] for image in images if image.pixels is None]:
                    raise SystemExit(f"{', '.join(broken)}: does not open; leave it out of the verdicts")
                pixels = np.array([image.pixels for image in images])
                plain.append(front(to_input(pixels)).half())
                mirrored.append(front(to_input(np.ascontiguousarray(pixels[:, :, ::-1]))).half())
                embeddings.append(rest(plain[-1].float()).mean((2, 3)))
        self.views = torch.stack([torch.cat(plain), torch.cat(mirrored)])
        self.embeddings = torch.cat(embeddings).numpy()

    def linear(self, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Whether each test row is told right."""
        target = self.target.numpy()
        model = LogisticRegression(max_iter=2000).fit(self.embeddings[train], target[train])
        return model.predict(self.embeddings[test]) == target[test]

    def fine_tuned(self, train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        """Whether each test row is told right."""
        tail = self._new(seed)[1]
        rng = np.random.default_rng(seed)
        steps = torch.optim.SGD(
            [p for p in tail.parameters() if p.requires_grad],
            lr=RECIPE.learning_rate,
            momentum=RECIPE.momentum,
            weight_decay=RECIPE.weight_decay,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the dropout
            for _ in range(self.epochs):
                for rows in batches(rng.permutation(train), RECIPE.batch_size):
                    views = self.views[torch.from_numpy(rng.integers(2, size=len(rows))), torch.from_numpy(rows)]
                    steps.zero_grad()
                    nn.functional.cross_entropy(tail(views.float()), self.target[rows]).backward()
                    steps.step()
        tail.eval()
        with torch.inference_mode():
            parts: list[Tensor] = [tail(self.views[0, rows].float()).argmax(1) for rows in batches(test, 64)]
        return (torch.cat(parts) == self.target[test]).numpy()

    def _new(self, seed: int) -> tuple[int, nn.Sequential]:
        """A new classifier: how many of the trunk's layers are frozen, and those that train, in training mode."""
        model = build(RECIPE.arch, len(self.labels), weights=self.weights, freeze=RECIPE.freeze, seed=seed)
        train_mode(model)
        trunk, head = split(model, RECIPE.arch)
        convolutions = [[m.weight for m in unit.modules() if isinstance(m, nn.Conv2d)] for unit in trunk]
        first = next(i for i, weights in enumerate(convolutions) if any(w.requires_grad for w in weights))
        return first, nn.Sequential(*trunk[first:], head).to(memory_format=torch.channels_last)


def one_seed(
    files: pd.DataFrame, group: np.ndarray, network: Network, measures: dict[str, pd.DataFrame], seed: int
) -> pd.DataFrame:
    """A row for each arm, head and test photo: `arm`, `head`, `seed`, `photo`, `label`, `other`, `right`, `purity`."""
    rng = np.random.default_rng(seed)
    test = held_out(files, group, seed)
    rows = np.flatnonzero((files["verdict"] != "") & ~np.isin(group, group[test]))
    seen, vectors = files.iloc[rows], network.embeddings[rows]
    pools = {name: pool_of(seen, vectors, table.iloc[rows]) for name, table in measures.items()}
    bad, tests = pools[""].bad, files.iloc[test]
    about = pd.DataFrame({"photo": test, "label": tests["label"], "other": tests["verdict"] == "", "seed": seed})
    parts = []
    for arm, draws in arms(pools, rng).items():
        purity = np.mean([~bad[chosen] for chosen in draws])
        heads = {"linear": np.mean([network.linear(rows[chosen], test) for chosen in draws], axis=0)}
        if arm in FINE_TUNED:
            heads["fine_tuned"] = network.fine_tuned(rows[draws[0]], test, seed).astype(float)
        for head, right in heads.items():
            parts.append(about.assign(arm=arm, head=head, right=right, purity=purity, images=len(draws[0])))
    return pd.concat(parts, ignore_index=True)


def held_out(files: pd.DataFrame, group: np.ndarray, seed: int) -> np.ndarray:
    """Rows to test on: a fifth of the clear keepers of each class, copies together, and the other source."""
    rng = np.random.default_rng(seed // FOLDS)
    clear = (files["verdict"].eq("keep") & files["doubtful"].astype(int).eq(0)).to_numpy()
    held: list[int] = []
    for label in sorted(files["label"].unique()):
        mine = np.flatnonzero(clear & files["label"].eq(label).to_numpy())
        photographs = rng.permutation(np.unique(group[mine]))[seed % FOLDS :: FOLDS]
        held.extend(mine[np.isin(group[mine], photographs)])
    return np.concatenate([held, np.flatnonzero(files["verdict"] == "")]).astype(int)


def arms(pools: dict[str, Pool], rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Arm -> rows of the pool to train on, as many of each class in every arm; where chance has a part, several draws.

    Args:
        pools: the same images, with different measures.
    """
    pool = pools[""]
    draws = [rng.permutation(len(pool.bad)) for _ in range(DRAWS)]
    chosen = {
        "scraped": [first_of_each(pool, drawn) for drawn in draws],
        "human": [first_of_each(pool, drawn[~pool.bad[drawn]]) for drawn in draws],
    }
    for measures, pool in pools.items():
        chosen[f"decisions_0{measures}"] = [curated(pool, np.array([], int))]
        reviewed = {
            "": [review(pool, screened(pool, "suspicious"), max(DECISIONS))],
            "_good": [review(pool, screened(pool, "good"), max(DECISIONS), target=PER_CLASS)],
            "_random": draws,
        }
        for n in (0, *DECISIONS):
            chosen[f"decisions_{n}_drawn{measures}"] = [drawn_fit(pool, reviewed[""][0][:n], drawn) for drawn in draws]
        for order, reviews in reviewed.items():
            for n in DECISIONS:
                chosen[f"decisions_{n}{order}{measures}"] = [curated(pool, rows[:n]) for rows in reviews]
    return chosen


def first_of_each(pool: Pool, order: np.ndarray) -> np.ndarray:
    """The first rows of each class."""
    return np.concatenate([order[pool.label[order] == label][:number] for label, number in numbers(pool).items()])


def numbers(pool: Pool) -> dict[str, int]:
    """Class -> images to train on: `PER_CLASS`, or as many as it has keepers."""
    return {label: min(PER_CLASS, int((~pool.bad[pool.label == label]).sum())) for label in np.unique(pool.label)}


def curated(pool: Pool, decided: np.ndarray) -> np.ndarray:
    """What `curate balance --unattended` takes of each class, but never fewer images than asked: those accepted, then
    those least likely to be rejected; of either, where they are too many, varied ones."""
    verdicts = decisions_on(pool, decided)
    quality, chosen = 1 - judge(pool, verdicts)[1], []
    for label, number in numbers(pool).items():
        accepted, waiting = (np.flatnonzero((pool.label == label) & of) for of in (verdicts == 0, np.isnan(verdicts)))
        given, others = pool.embeddings[accepted], pool.embeddings[waiting]
        stays = choose_varied(quality[accepted], given, number, weight=NOVELTY_JUDGED)
        taken = choose_varied(quality[waiting], others, number - len(stays), weight=NOVELTY_UNJUDGED, beside=given)
        chosen += [accepted[stays], waiting[taken]]
    return np.concatenate(chosen).astype(int)


def drawn_fit(pool: Pool, decided: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Those accepted, then those below `LIMIT` in the order drawn, then the others, the least suspicious first."""
    verdicts = decisions_on(pool, decided)
    doubts = judge(pool, verdicts)[1]
    likely = drawn[np.isnan(verdicts[drawn]) & (doubts[drawn] < LIMIT)]
    others = np.flatnonzero(np.isnan(verdicts) & (doubts >= LIMIT))
    order = np.concatenate([np.flatnonzero(verdicts == 0), likely, others[np.argsort(doubts[others], kind="stable")]])
    return first_of_each(pool, order)


def report(results: pd.DataFrame) -> dict:
    """Print and return the figures of every arm, and their differences from what was scraped."""
    draws = Draws(results)
    outcome: dict = {"intervals": {}, "gain": {}, "purity": {}, "held_out_keepers": {}, "other_source": {}}
    lines = []
    for head in results["head"].unique():
        for arm in results.loc[results["head"] == head, "arm"].unique():
            name = arm if head == "linear" else f"fine_tuned_{arm}"
            mine = results[(results["arm"] == arm) & (results["head"] == head)]
            accuracy, gain = draws.accuracy(head, arm), draws.gain(head, arm)
            outcome[name], outcome["intervals"][name] = rounded(accuracy)
            outcome["gain"][name] = [rounded(gain)[0], *rounded(gain)[1]]
            outcome["purity"][arm] = round(float(mine.drop_duplicates("seed")["purity"].mean()), 4)
            outcome["held_out_keepers"][name] = mean_recall(mine[~mine["other"]])
            outcome["other_source"][name] = mean_recall(mine[mine["other"]])
            keepers, other = outcome["held_out_keepers"][name], outcome["other_source"][name]
            shown = (f"{100 * outcome['purity'][arm]:.1f} %", said(accuracy), said(gain), f"{keepers:.3f}", str(other))
            lines.append((head.replace("_", "-"), arm, *shown))
    columns = ("head", "arm", "keepers", "accuracy", "against scraped", "on keepers", "other source")
    print_table(columns, lines)
    first = results[(results["arm"] == "scraped") & (results["head"] == "linear") & (results["seed"] == 0)]
    outcome["test_images"] = first["label"].value_counts().to_dict()
    outcome["train_images"] = int(results["images"].median())
    return outcome


class Draws:
    """Accuracy of each arm in the whole and in every bootstrap sample, the same samples for all arms."""

    def __init__(self, results: pd.DataFrame) -> None:
        photos = results.drop_duplicates("photo").sort_values("photo")
        self.label = photos["label"].to_numpy()
        self.right = {
            key: rows.pivot(index="seed", columns="photo", values="right").astype(float).to_numpy()
            for key, rows in results.groupby(["head", "arm"])
        }
        seeds = results["seed"].nunique()
        rng = np.random.default_rng(0)
        self.weights = [np.ones((seeds, len(photos)))]
        for _ in range(ROUNDS):
            of_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds))
            of_photo = np.zeros(len(photos))
            for label in np.unique(self.label):
                mine = np.flatnonzero(self.label == label)
                of_photo[mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)))
            self.weights.append(np.outer(of_seed, of_photo))

    def accuracy(self, head: str, arm: str) -> np.ndarray:
        """(1 + ROUNDS,) the mean of the classes' recalls; the first is the figure itself."""
        right = self.right[head, arm]
        tested, told = np.isfinite(right), np.nan_to_num(right)
        columns = [np.flatnonzero(self.label == label) for label in np.unique(self.label)]
        return np.array(
            [np.mean([(w * told)[:, c].sum() / (w * tested)[:, c].sum() for c in columns]) for w in self.weights]
        )

    def gain(self, head: str, arm: str) -> np.ndarray:
        """(1 + ROUNDS,) accuracy minus that of what was scraped, sample by sample."""
        return self.accuracy(head, arm) - self.accuracy(head, "scraped")


def mean_recall(rows: pd.DataFrame) -> float | None:
    return round(float(rows.groupby("label")["right"].mean().mean()), 4) if len(rows) else None


def rounded(draws: np.ndarray) -> tuple[float, list[float]]:
    return round(float(draws[0]), 4), [round(float(bound), 4) for bound in np.percentile(draws[1:], [2.5, 97.5])]


def said(draws: np.ndarray) -> str:
    figure, (low, high) = rounded(draws)
    return f"{figure:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
