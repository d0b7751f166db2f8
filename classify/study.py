"""`classify study`: every experiment of the study on manifests of one's own, and one report of what they show.

Each experiment of the plan (`classify.study_plan`) is an ordinary run below runs/<study>/. A finished run is not
trained again and an unfinished one goes on, so that the whole study resumes after a kill.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torchvision

from classify.baselines import guess
from classify.data import Progress, split_rows
from classify.models import build, load_run
from classify.study_findings import Findings, Study, findings
from classify.study_page import study_page
from classify.study_pictures import Card, confused, misled, side_by_side
from classify.study_plan import SCRAPED, Arms, Experiment, Start, StudyConfig, experiments, plan
from classify.train import Diverged, train
from curate.errors import CurateError
from curate.files import replacing

PLAN, RESULTS = "study.json", "results.json"
FREE_TO_CHANGE = ("test", "threads")
MOST_EXPLAINED = 200  # training images among which those that mislead are looked for
ALONE = 3.0  # seconds that a run takes beyond what it computes

Say = Callable[[str], None]


def run_study(
    balanced: pd.DataFrame,
    root: Path,
    config: StudyConfig,
    home: Path,
    *,
    weights: dict[str, str] | None = None,
    scraped: pd.DataFrame | None = None,
    cache: Path | None = None,
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Findings:
    """Train what is not trained yet, and write report.html and results.json.

    Args:
        balanced: the curated manifest, with `split`.
        root: the data root of both manifests.
        config: see `StudyConfig`.
        home: the folder of the runs; made if need be.
        weights: architecture -> path of its pretrained weights, or "none". What is not named is downloaded; where that
            fails the architecture starts from random weights, and the report says so.
        scraped: the manifest before curation.
        cache: of decoded pixels and features; root/cache if not given.
        say: called with a line before every step.
        progress: called with (done, to do) while images are decoded and features computed.

    Raises:
        CurateError: a manifest cannot be trained on, a study of that name has other settings or images, weights that
            were given do not fit.
    """
    cache = cache or root / "cache"
    starts = _open(home, config, weights or {}, {"manifest": balanced, "scraped": scraped})
    parts = plan(config, starts, balanced, scraped)
    failed = train_all(experiments(parts), root, home, cache=cache, say=say, progress=progress)
    splits = ("val", "test") if config.test else ("val",)
    study = Study(home, balanced, root, failed, splits)
    say("classical classifiers on colour and texture")
    guesses = guess(balanced, root, seed=0, cache=cache, progress=progress)
    say("what the runs show")
    found = findings(study, parts, starts, guesses)
    say("heatmaps and report")
    study_page(home.name, found, config, _pictures(study, parts, found), home)
    with replacing(home / RESULTS) as temporary:
        temporary.write_text(json.dumps(as_json(found), indent=2))
    return found


def parse_weights(words: Iterable[str]) -> dict[str, str]:
    """ARCH=PATH or ARCH=none -> architecture to path; CurateError for anything else."""
    given = {}
    for word in words:
        arch, equals, path = word.partition("=")
        if not (arch and equals and path) or arch in given:
            raise CurateError(f"--weights {word}: give ARCH=PATH or ARCH=none, each architecture once.")
        given[arch] = path
    return given


def find_start(arch: str, given: str | None) -> Start:
    """The weights that an architecture can be had with.

    Raises:
        CurateError: no such architecture, or weights that were given do not fit.
    """
    build(arch, 2, weights="none")
    if given == "none":
        return Start("none", "random weights, as asked for")
    if given is None and arch == "small_cnn":
        return Start("none", "small_cnn has no pretrained weights")
    try:
        build(arch, 2, weights=given or "DEFAULT")
    except CurateError as error:
        if given is not None:
            raise
        return Start("none", str(error))
    return Start(given or "DEFAULT")


def train_all(
    runs: list[Experiment], root: Path, home: Path, *, cache: Path, say: Say, progress: Progress | None
) -> dict[str, str]:
    """Train those that are not finished; of those that diverged the name and the cause."""
    failed: dict[str, str] = {}
    clock = Clock(runs, home)
    for number, run in enumerate(runs, 1):
        folder = home / run.name
        if (folder / "metrics.json").exists():
            continue
        say(f"experiment {number} of {len(runs)}: {run.name}; {clock.left()}")
        started = time.monotonic()
        try:
            train(run.manifest, root, run.config, folder, cache=cache, progress=progress)
        except Diverged as error:
            failed[run.name] = str(error)
        (folder / "last.pt").unlink(missing_ok=True)  # of VGG19 over a gigabyte
        clock.took(run, time.monotonic() - started)
    return failed


def as_json(found: Findings) -> dict[str, Any]:
    """The findings in plain types, without the curves; NaN is None."""
    plain = {name: value for name, value in found._asdict().items() if name != "histories"}
    for name, value in plain.items():
        if isinstance(value, pd.DataFrame):
            plain[name] = json.loads(value.to_json(orient="records"))
        elif name == "best" and value is not None:
            plain[name] = value._asdict()
    return plain


class Clock:
    """How long the runs that wait will take, from those that are done.

    A run takes as long as the last of its kind, but for the first: what frozen layers give is kept from then on. The
    first takes the time of its floating-point operations at the pace of those of other kinds.
    """

    def __init__(self, runs: list[Experiment], home: Path) -> None:
        self.waiting: list[Experiment] = []
        self.seconds: dict[tuple[str, ...], float] = {}
        self.spent = self.work = 0.0
        for run in runs:
            path = home / run.name / "metrics.json"
            if path.exists():
                self._learn(run, json.loads(path.read_text())["seconds"])
            else:
                self.waiting.append(run)

    def took(self, run: Experiment, seconds: float) -> None:
        """A run is done."""
        self.waiting.remove(run)
        self._learn(run, seconds)

    def left(self) -> str:
        """The time that those which wait take, in words."""
        if not self.work:
            return "no estimate yet of the time left"
        expected = dict(self.seconds)
        total = 0.0
        for run in self.waiting:
            kind = _kind(run)
            first = ALONE + self.spent / self.work * _work(run)
            total += expected.get(kind, first)
            expected.setdefault(kind, first if run.config.freeze == "none" else ALONE)
        return f"about {total / 60:.0f} minutes of training left" if total > 90 else "about a minute of training left"

    def _learn(self, run: Experiment, seconds: float) -> None:
        first = _kind(run) not in self.seconds
        if first:
            self.spent += max(seconds - ALONE, 0)
            self.work += _work(run)
        self.seconds[_kind(run)] = ALONE if first and run.config.freeze != "none" else seconds


def _kind(run: Experiment) -> tuple[str, ...]:
    return run.config.arch, run.config.freeze, "grey" if run.config.grayscale else "colour"


def _work(run: Experiment) -> float:
    """Floating-point operations, in units of a forward pass of 10^9 of them over one image."""
    config = run.config
    times = 3 * config.epochs if config.freeze == "none" else config.views  # backward takes twice as long as forward
    return len(run.manifest) * times * _gigaflops(config.arch) * (config.image_size / 224) ** 2


def _gigaflops(arch: str) -> float:
    """As torchvision states them; 1 where it does not know the architecture."""
    try:
        return float(torchvision.models.get_model_weights(arch).DEFAULT.meta["_ops"])
    except (ValueError, KeyError):
        return 1.0


def _open(
    home: Path, config: StudyConfig, weights: dict[str, str], manifests: dict[str, pd.DataFrame | None]
) -> dict[str, Start]:
    """What every architecture starts from. The study's settings are written down; those of a begun one must agree.

    Whether weights could be had is settled when a study begins: half of its runs would differ from the others.
    """
    if stray := sorted(set(weights) - set(config.archs)):
        raise CurateError(f"--weights {', '.join(stray)}: none of the architectures, {', '.join(config.archs)}.")
    about = {
        "settings": {k: v for k, v in dataclasses.asdict(config).items() if k not in FREE_TO_CHANGE},
        "weights": weights,
        "images": {name: _digest(table) for name, table in manifests.items()},
    }
    path = home / PLAN
    if path.exists():
        before = _read_plan(path)
        if changed := [key for key in about if json.loads(json.dumps(about[key])) != before[key]]:
            raise CurateError(
                f"study {home} was begun with other {', '.join(changed)}. Give those of before, or another --name."
            )
        return {arch: Start(**start) for arch, start in before["starts"].items()}
    if home.exists() and any(home.iterdir()):
        raise CurateError(f"{home} is there already and is no study. Take another --name.")
    starts = {arch: find_start(arch, weights.get(arch)) for arch in config.archs}
    home.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        written = {**about, "starts": {arch: start._asdict() for arch, start in starts.items()}}
        temporary.write_text(json.dumps(written, indent=2))
    return starts


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        before = dict(json.loads(path.read_text()))
        missing = {"settings", "weights", "images", "starts"} - before.keys()
    except (ValueError, OSError, TypeError) as error:
        raise CurateError(f"{path} is damaged ({type(error).__name__}). Take another --name.") from error
    if missing:
        raise CurateError(f"{path} is damaged: {', '.join(sorted(missing))} missing. Take another --name.")
    return before


def _digest(table: pd.DataFrame | None) -> str | None:
    """Names the images, their labels and what they are used for; the order of the rows does not matter."""
    if table is None:
        return None
    columns = [c for c in ("image_id", "sha256", "label", "status", "split", "duplicate_of") if c in table]
    lines = sorted("\t".join(map(str, row)) for row in table[columns].itertuples(index=False))
    return hashlib.sha256("\n".join([*columns, *lines]).encode()).hexdigest()


def _pictures(study: Study, parts: dict[str, Arms], found: Findings) -> dict[str, dict[str, list[Card]]]:
    """Fig. 5: of the images as scraped by a model of them, else of val; Fig. 7: of val. Both by the best run."""
    if found.best is None:
        return {}
    best, val = load_run(study.home / found.best.name), split_rows(study.manifest, "val")
    where, rows, trained = f"split val, by {found.best.name}", val, best
    scraped = [run for run in parts.get("curation", {}).get(SCRAPED, []) if run.name not in study.failed]
    if scraped:
        rows = split_rows(scraped[0].manifest, "train")[:MOST_EXPLAINED]
        where, trained = (
            f"images as scraped, by {scraped[0].name}, which trained on them",
            load_run(study.home / scraped[0].name),
        )
    two = confused(np.array(found.best.val["confusion_matrix"]), found.classes)
    return {
        "misled": {where: misled(trained, rows, study.root)},
        "side by side": side_by_side(best, val, study.root, two),
    }
