"""The loop on real scraped photos, with an expert's verdicts as the reviewer: how clean is what the tool keeps?

    python -m benchmarks.real_photos --decisions 160

Serves a folder of real photos (web/<class>/) by a loopback Bing and runs scrape, dedup, audit, decide, balance and
train on it. The reviewer judges as many images as asked, as many in each class: ten a class by chance, then, ten a
class at a time, those that look surest to be good, so that the classes fill soon; the screen learns in between, and the
rest is left to it. Some keepers that no doubt attaches to are held back from the search: the test set of the training
before and after, together with the photos of another source where a class has them (web2/<class>/).

The measures that come with DeepRock were fitted on the photos of the default folder: on these the run shows that the
loop works, not how well it does on other photos. Give `--photos` and `--truth` for that.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.options import arguments, read_truth
from benchmarks.steps import Steps
from curate.console import print_table
from curate.images import inspect
from curate.manifest import read_manifest, write_manifest
from curate.split import split
from curate.store import ImageError, store
from tests.web import LoopbackWeb, Photo, folder_photos

SHARED = Path(__file__).resolve().parents[2] / "shared"
HELD_BACK = {"basalt": 0, "granite": 10}  # small classes cannot spare many keepers; of the others 30 are held back
AT_ONCE = 10  # decisions in a class before the screen learns from them
OTHER_SOURCE = 30  # photos of web2 a class, for the test


def main() -> None:
    parser = arguments(__doc__, "fewer epochs")
    parser.add_argument("--decisions", type=int, default=160, help="images that the reviewer judges, of all classes")
    parser.add_argument("--scrape", type=int, default=80)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, default=None, help="folder to work in [default: a temporary one]")
    options = parser.parse_args()
    truth = read_truth(options)
    if truth is None:
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, truth, options.home or Path(folder))
        figures = bench.run()
    figures["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(figures))


class Bench:
    """One run: the photos, what is known of them, and the folder it works in."""

    def __init__(self, options: argparse.Namespace, truth: pd.DataFrame, home: Path) -> None:
        self.options, self.home = options, home
        self.rng = np.random.default_rng(options.seed)
        self.photos = options.photos
        truth["image_id"] = [_image_id(self.photos / name) for name in truth["file_name"]]
        self.truth = truth.drop_duplicates("image_id").set_index("image_id")
        self.labels = sorted(self.truth["label"].unique())
        self.held_back = self._hold_back()
        self.step = Steps(home, home / "recipe.toml")
        self.model = ("--arch", "mobilenet_v2", "--weights", options.weights)

    def run(self) -> dict:
        """The loop; its figures."""
        step, options = self.step, self.options
        with LoopbackWeb(self._served(), seed=options.seed) as web:
            self._write_recipe(web)
            step.curate("scrape", "--per-class", str(options.scrape), "-o", step.path("scraped.csv"))
            scraped = self._say("scraped", read_manifest(self.home / "scraped.csv"))
            step.curate("dedup", step.path("scraped.csv"), "-o", step.path("unique.csv"))
            unique = self._say("unique", read_manifest(self.home / "unique.csv"))
            step.curate("audit", step.path("unique.csv"), "-o", step.path("audited.csv"), *self.model)
            decisions = self._decide()
            target = ("--per-class", str(options.per_class), "--unattended")
            words = (step.path("audited.csv"), "-o", step.path("balanced.csv"), *target, *self.model)
            full = step.curate("balance", *words, may_fail=True)
        balanced = self._say("kept", read_manifest(self.home / "balanced.csv"))
        accuracy = self._train_before_and_after(scraped, balanced)
        kept = balanced[balanced["status"] == "accepted"]
        return {
            "scraped": len(scraped),
            "duplicates": int((unique["status"] == "duplicate").sum()),
            "decisions": decisions,
            "kept_purity": round(float(self._keepers(kept).mean()), 4),
            "kept_purity_undoubtful": round(float(self._keepers(kept[~self._doubtful(kept)]).mean()), 4),
            "kept_by_screen": int((kept["reviewer"] == "screen").sum()),
            "kept_by_screen_purity": round(float(self._keepers(kept[kept["reviewer"] == "screen"]).mean()), 4),
            "per_class": kept["label"].value_counts().to_dict(),
            "full": full,
            **accuracy,
            "seconds_by_step": {name: round(seconds, 1) for name, seconds in step.seconds.items()},
        }

    def _hold_back(self) -> pd.DataFrame:
        """Keepers for the test, drawn by chance, that the search does not offer."""
        parts = []
        for label in self.labels:
            sure = self.truth.query("label == @label and verdict == 'keep' and doubtful == 0")
            number = min(HELD_BACK.get(label, 30), len(sure) // 5 if label not in HELD_BACK else len(sure))
            parts.append(sure.iloc[self.rng.permutation(len(sure))[:number]])
        return pd.concat(parts)

    def _served(self) -> dict[str, list[Photo]]:
        served = folder_photos(self.photos / "web")
        return {
            label: [p for p in served[label] if _digest(p.load()) not in self.held_back.index] for label in self.labels
        }

    def _write_recipe(self, web: LoopbackWeb) -> None:
        lines = ['name = "rocks"', 'sources = ["bing"]', "min_side = 100"]
        for label in self.labels:
            lines += ["[[classes]]", f'name = "{label}"', f'queries = ["{label} hand sample", "{label} rock"]']
        lines += ["[web.mirrors]", *(f'"{host}" = "{base}"' for host, base in web.mirrors.items())]
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "recipe.toml").write_text("\n".join(lines) + "\n")

    def _say(self, what: str, table: pd.DataFrame) -> pd.DataFrame:
        """Print, class by class, how many images there are, and how many of them an expert would keep."""
        taken = table[table["status"] == "accepted"] if what == "kept" else table[table["status"] == "candidate"]
        fit = self._keepers(taken)
        rows = []
        for label in [*self.labels, "all"]:
            mine = fit if label == "all" else fit[(taken["label"] == label).to_numpy()]
            rows.append((label, str(len(mine)), str(int(mine.sum())), f"{100 * mine.mean():.1f} %"))
        print_table(("class", what, "true keepers", "share"), rows)
        return table

    def _keepers(self, table: pd.DataFrame) -> np.ndarray:
        return (self.truth["verdict"].reindex(table["image_id"]) == "keep").to_numpy()

    def _doubtful(self, table: pd.DataFrame) -> np.ndarray:
        return (self.truth["doubtful"].reindex(table["image_id"]) == 1).to_numpy()

    def _decide(self) -> int:
        """The reviewer judges a few of each class, by chance first, then the least suspicious; the screen learns."""
        step, judged = self.step, set[str]()
        per_class = self.options.decisions // len(self.labels)
        while per_class * len(self.labels) > len(judged):
            table = read_manifest(self.home / "audited.csv")
            waiting = table[(table["status"] == "candidate") & ~table["image_id"].isin(judged)]
            number = min(AT_ONCE, per_class - len(judged) // len(self.labels))
            order = waiting.sample(frac=1, random_state=self.options.seed)
            order = order.sort_values("suspicion", kind="stable") if judged else order
            chosen = order.groupby("label").head(number)["image_id"]
            known = self.truth.loc[chosen, ["verdict", "reason"]].reset_index(names="image_id")
            known.to_csv(self.home / "verdicts.csv", index=False)
            audited = step.path("audited.csv")
            step.curate("decide", step.path("verdicts.csv"), "--manifest", audited, "--reviewer", "expert")
            step.curate("audit", audited, "-o", audited, "--quick", *self.model)
            judged |= set(chosen)
            if len(chosen) < number * len(self.labels):
                break
        return len(judged)

    def _train_before_and_after(self, scraped: pd.DataFrame, balanced: pd.DataFrame) -> dict:
        """The same training on as many images a class as scraped, and as kept; macro recall on the same test photos."""
        taken = balanced[balanced["status"] == "accepted"].groupby("label").size()
        first = scraped.groupby("label", group_keys=False).apply(
            lambda rows: rows.sample(min(taken.get(rows.name, 0), len(rows)), random_state=self.options.seed)
        )
        status = np.where(scraped["image_id"].isin(first["image_id"]), "accepted", "candidate")
        write_manifest(split(scraped.assign(status=status), seed=self.options.seed), self.home / "before.csv")
        test = self._test_manifest()
        write_manifest(test, self.home / "test.csv")
        result: dict = {"test_images": test["label"].value_counts().to_dict()}
        for name, manifest in (("before", "before.csv"), ("after", "balanced.csv")):
            self._train(name, manifest)
            result[f"test_accuracy_{name}"], result[f"interval_{name}"] = self._evaluate(name)
        return result

    def _train(self, name: str, manifest: str) -> None:
        epochs = 3 if self.options.quick else self.options.epochs
        words = (*self.model, "--freeze", "head", "--epochs", str(epochs), "--seed", str(self.options.seed))
        where = ("--manifest", self.step.path(manifest), "--runs", self.step.path("runs"), "--name", name)
        self.step.classify("train", *words, *where)

    def _evaluate(self, name: str) -> tuple[float, list[float]]:
        """Mean recall of the classes on the test photos, with its 95 % bootstrap interval."""
        run = self.step.path(f"runs/{name}")
        self.step.classify("evaluate", run, "--manifest", self.step.path("test.csv"), "--split", "test")
        result = json.loads((Path(run) / "evaluation-test.json").read_text())
        return round(result["macro_recall"], 4), [round(bound, 4) for bound in result["interval_95"]["macro_recall"]]

    def _test_manifest(self) -> pd.DataFrame:
        files = [(row.label, self.photos / str(row.file_name)) for row in self.held_back.itertuples()]
        for label in self.labels:
            other = sorted((self.photos / "web2" / label).glob("*")) if (self.photos / "web2" / label).is_dir() else []
            files += [(label, other[i]) for i in self.rng.permutation(len(other))[:OTHER_SOURCE]]
        rows = []
        for label, path in files:
            try:
                picture = inspect(data := path.read_bytes())
            except ImageError as error:
                print(f"{path.name} is left out of the test: {error}")
                continue
            name = store(self.home / "data", data, picture)
            rows.append({"image_id": picture.sha256[:16], "file_name": name, "label": label})
        return pd.DataFrame(rows).drop_duplicates("image_id").assign(status="accepted", split="test")


def _image_id(path: Path) -> str:
    return _digest(path.read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    main()
