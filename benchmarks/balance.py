"""The deficit loop on real scraped photos, with an expert's verdicts as the reviewer: what it costs, what comes back.

    python -m benchmarks.balance

Serves folders of real photos (web/<class>/, and web2/<class>/, whose photos are all keepers) by a loopback Bing and
runs the commands as a person would: scrape, dedup, audit; a few decisions a class in the order of the app; balance,
which fetches what is missing; then the reviewer judges what the app shows until each class is full, and balances again.
Readmitted are accepted images that were rejected once, or are verified copies of one that was.

The measures that come with DeepRock were fitted on the photos of the default folder: on these the run shows that the
loop works, not how well it does on other photos. Give `--photos` and `--truth` for that.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.steps import Steps
from curate.console import print_table
from curate.dedup import find_copies
from curate.images import inspect
from curate.ledger import Decision, Ledger
from curate.live_queue import LiveQueue
from curate.manifest import read_manifest
from curate.store import ImageError, store
from tests.web import LoopbackWeb, Photo, folder_photos

SHARED = Path(__file__).resolve().parents[2] / "shared"
MIN_SIDE = 100
MOST_ROUNDS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=SHARED / "data" / "rocks", help="with web/<class>/ and web2/")
    parser.add_argument("--truth", type=Path, default=None, help="CSV of verdicts [default: PHOTOS/truth.csv]")
    parser.add_argument("--weights", default=str(SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"))
    parser.add_argument("--scrape", type=int, default=100, help="images a class to begin with")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--first", type=int, default=10, help="decisions a class before the first balance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, default=None, help="folder to work in [default: a temporary one]")
    parser.add_argument("--quick", action="store_true", help="15 a class out of 25")
    options = parser.parse_args()
    if options.quick:
        options.scrape, options.per_class = 25, 15
    truth = options.truth or options.photos / "truth.csv"
    if not truth.exists() or not Path(options.weights).exists():
        print(f"no real photos here: {truth} or {options.weights} is missing; see --photos, --truth, --weights")
        print(json.dumps({"skipped": str(truth)}))
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = Bench(options, truth, options.home or Path(folder)).run()
    figures["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(figures))
    if figures["readmitted"]:
        raise SystemExit(1)


class Bench:
    """One run: the photos, what an expert says of each, and the folder it works in."""

    def __init__(self, options: argparse.Namespace, truth: Path, home: Path) -> None:
        self.options, self.home = options, home
        self.photos = served(options.photos, sorted(pd.read_csv(truth)["label"].unique()))
        self.images = stored(self.photos, verdicts(truth), home / "expert")
        self.labels = list(self.photos)
        self.step = Steps(home, home / "recipe.toml")
        self.decisions: Counter[str] = Counter()

    def run(self) -> dict:
        """The loop; its figures."""
        step, options = self.step, self.options
        model = ("--arch", "mobilenet_v2", "--weights", options.weights)
        audited, balanced = step.path("audited.csv"), step.path("balanced.csv")
        balance = (audited, "-o", balanced, "--per-class", str(options.per_class), *model)
        there = self._keepers_there()
        with LoopbackWeb(self.photos, seed=options.seed) as web:
            self._write_recipe(web)
            step.curate("scrape", "--per-class", str(options.scrape), "-o", step.path("scraped.csv"), may_fail=True)
            step.curate("dedup", step.path("scraped.csv"), "-o", step.path("unique.csv"))
            step.curate("audit", step.path("unique.csv"), "-o", audited, "--quick", *model)
            judged, rounds = self._review("audited.csv", options.first), 0
            while judged and rounds < MOST_ROUNDS:
                rounds += 1
                step.curate("balance", *balance, may_fail=True)
                judged = self._review("balanced.csv", None)
            before, asked = read_manifest(self.home / "balanced.csv"), len(web.requests)
            step.curate("balance", *balance, may_fail=True)
            again = read_manifest(self.home / "balanced.csv")
        kept = again[again["status"] == "accepted"]
        per_class = {label: int((kept["label"] == label).sum()) for label in self.labels}
        self._report(per_class, there)
        return {
            "readmitted": self._readmitted(again),
            "decisions": self.decisions.total(),
            "decisions_reviewing_all": len(again),
            "per_class": per_class,
            "rounds": rounds,
            "keepers_there": there,
            "reached_where_there": all(
                per_class[label] == options.per_class for label in self.labels if there[label] >= options.per_class
            ),
            "never_more_than_wanted": max(per_class.values()) <= options.per_class,
            "again_changes_nothing": again.equals(before) and asked == len(web.requests),
            "kept_purity": round(float(self.images["keep"].reindex(kept["image_id"]).mean()), 4),
            "seconds_by_step": {name: round(seconds, 1) for name, seconds in step.seconds.items()},
        }

    def _review(self, manifest: str, first: int | None) -> int:
        """Judge what the app shows: so many of each class, or until each is full; how many were judged."""
        table, target = read_manifest(self.home / manifest), self.options.per_class
        queue = LiveQueue(table, target)
        with Ledger(self.home / "data" / "ledger.db") as ledger:
            for _, decision in ledger.since(0):
                queue.add(decision)
        made: list[Decision] = []
        for label in self.labels:
            for _ in range(len(table) if first is None else first):
                accepted = next(int(row["accepted"]) for row in queue.counts(target) if row["label"] == label)
                waiting = queue.waiting(label, 1)
                if not waiting or accepted >= target:
                    break
                row = self.images.loc[waiting[0]]
                verdict, reason = ("accept", None) if row["keep"] else ("reject", row["reason"])
                made.append(Decision(waiting[0], verdict, reason, decision_id=waiting[0], reviewer="expert"))
                queue.add(made[-1])
                self.decisions[label] += 1
        if made:
            columns = ["image_id", "verdict", "reason"]
            pd.DataFrame(made)[columns].to_csv(self.home / "verdicts.csv", index=False)
            words = ("--manifest", self.step.path(manifest), "--reviewer", "expert")
            self.step.curate("decide", self.step.path("verdicts.csv"), *words)
        return len(made)

    def _readmitted(self, table: pd.DataFrame) -> int:
        """Accepted images that were rejected once, or are copies of one that was, by bytes or as verified pairs."""
        with Ledger(self.home / "data" / "ledger.db") as ledger:
            history = ledger.history()
        refused = set(history.loc[history["verdict"] == "reject", "image_id"])
        accepted = set(table.loc[table["status"] == "accepted", "image_id"])
        among = table[table["image_id"].isin(refused | accepted)]
        back = accepted & refused
        bytes_refused = set(among.loc[among["image_id"].isin(refused), "sha256"])
        back |= set(among.loc[among["image_id"].isin(accepted) & among["sha256"].isin(bytes_refused), "image_id"])
        pairs = find_copies(among, self.home / "data").dropna(subset=["second"])
        for one, other in pairs[["first", "second"]].itertuples(index=False):
            back |= {one} if one in accepted and other in refused else set()
            back |= {other} if other in accepted and one in refused else set()
        return len(back)

    def _keepers_there(self) -> dict[str, int]:
        """Keepers that the search offers, copies counted once."""
        keepers = self.images[self.images["keep"]].reset_index()
        pairs = find_copies(keepers, self.home / "expert").dropna(subset=["second"])
        label = keepers.set_index("image_id")["label"]
        first = {image_id: image_id for image_id in keepers["image_id"]}

        def family(image_id: str) -> str:
            while first[image_id] != image_id:
                image_id = first[image_id]
            return image_id

        for one, other in pairs[["first", "second"]].itertuples(index=False):
            if label[one] == label[other]:
                first[family(one)] = family(other)
        return {c: len({family(i) for i in keepers.loc[keepers["label"] == c, "image_id"]}) for c in self.labels}

    def _report(self, per_class: dict[str, int], there: dict[str, int]) -> None:
        target = self.options.per_class
        rows = []
        for label, number in per_class.items():
            said = "full" if number == target else f"short: {there[label]} different keepers are there"
            rows.append((label, *map(str, (number, target, there[label], self.decisions[label])), said))
        print_table(("class", "accepted", "wanted", "keepers there", "decisions", ""), rows)

    def _write_recipe(self, web: LoopbackWeb) -> None:
        lines = ['name = "rocks"', 'sources = ["bing"]', f"min_side = {MIN_SIDE}"]
        for label in self.labels:
            lines += ["[[classes]]", f'name = "{label}"', f'queries = ["{label} hand sample", "{label} rock"]']
        lines += ["[web.mirrors]", *(f'"{host}" = "{base}"' for host, base in web.mirrors.items())]
        (self.home / "recipe.toml").write_text("\n".join(lines) + "\n")


def served(photos: Path, labels: list[str]) -> dict[str, Sequence[Photo]]:
    """The photos of each class that the search offers: those of `web`, then those of `web2`."""
    first, second = folder_photos(photos / "web"), folder_photos(photos / "web2")
    more = {label: [Photo(f"web2/{p.name}", p.load) for p in offered] for label, offered in second.items()}
    return {label: [*first[label], *more.get(label, [])] for label in labels}


def verdicts(truth: Path) -> dict[str, str | None]:
    """File of `web` -> why an expert rejects it; None for a keeper."""
    table = pd.read_csv(truth)
    reasons = np.where(table["verdict"] == "keep", None, table["reason"])
    return dict(zip(table["file_name"], reasons, strict=True))


def stored(photos: dict[str, Sequence[Photo]], reasons: dict[str, str | None], root: Path) -> pd.DataFrame:
    """All photos that the recipe would take, by `image_id`, with the expert's `keep` and `reason`."""
    rows = []
    for label, offered in photos.items():
        for photo in offered:
            try:
                picture = inspect(data := photo.load())
            except ImageError as error:
                print(f"{photo.name} does not open: {error}")
                continue
            if min(picture.width, picture.height) < MIN_SIDE:
                continue
            reason = None if photo.name.startswith("web2/") else reasons[f"web/{photo.name}"]
            facts = {"file_name": store(root, data, picture), "sha256": picture.sha256, "phash": picture.phash}
            expert = {"label": label, "keep": reason is None, "reason": reason}
            rows.append({"image_id": picture.sha256[:16], **facts, **expert})
    return pd.DataFrame(rows).drop_duplicates("image_id").set_index("image_id")


if __name__ == "__main__":
    main()
