"""Try many settings: which batch size, dropout, learning rate and so on is best on the validation images.

Optuna proposes (Akiba et al., KDD 2019), by its tree-structured Parzen estimator (Bergstra et al., NIPS 2011); where
the grid is no larger than the number of trials, each of its points is tried. None is tried twice, as training is
deterministic. What is proposed is drawn from the seed and the trials so far, so that a sweep that was killed goes on
as it would have (with one process; with several it depends on which is done first). One process alone writes study.db,
an SQLite file that Optuna's own tools read.

Every trial is an ordinary run, in a folder named by its settings. No trial is pruned: where a learning rate is halved
on schedule, curves cross; early stopping ends what no longer improves; and heads on cached features take seconds.
Frozen layers are computed once for all trials that share them: the first of these goes ahead of the others, and on a
grid the cheapest come first.
"""

import dataclasses
import itertools
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import optuna
import pandas as pd
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from classify.config import TrainConfig
from classify.data import Progress, check_rows, content_keys, load_pixels
from classify.models import build, check_side
from classify.predict import data_digest
from classify.report import write_table
from classify.sweep_page import sweep_page
from classify.train import train
from classify.trunk import FREEZE, Freeze
from classify.workers import Died, Here, Workers
from curate.errors import CurateError
from curate.files import replacing

STUDY = "study.db"
FAILED = "failed.txt"  # in the folder of a trial: why
ASKED = 50  # proposals that may repeat what was tried, before a point is drawn evenly from what was not
TRIES = 2  # of a trial whose process dies
COLUMNS = ("run", "state")  # of the table, before the settings
FIGURES = (  # and after them
    *("macro_f1", "macro_f1_low", "macro_f1_high", "accuracy", "accuracy_low", "accuracy_high"),
    *("images", "best_epoch", "epochs_run", "seconds", "cause"),
)
DONE = (TrialState.COMPLETE, TrialState.FAIL)

Settings = dict[str, Any]  # a point of the grid: the name of a setting -> its value


@dataclass(frozen=True)
class Grid:
    """What is tried of each setting of a `TrainConfig`: the study's values, but for `learning_rate`, which it omits."""

    arch: tuple[str, ...] = ("vgg19_bn", "resnet18", "densenet121")
    freeze: tuple[Freeze, ...] = FREEZE
    batch_size: tuple[int, ...] = (4, 8, 16, 32, 128)
    dropout: tuple[float, ...] = (0.2, 0.5, 0.8)
    weight_decay: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    learning_rate: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)

    def __post_init__(self) -> None:
        for name, values in self._given().items():
            if not values or len(set(values)) < len(values):
                found = ", ".join(map(str, values)) or "none"
                raise CurateError(f"{name}: {found}: give at least one value, and each of them once.")
            for value in values:
                TrainConfig(**{name: value})  # checks it

    def values(self) -> dict[str, tuple[Any, ...]]:
        """The values of each setting; what is frozen in the order of what it costs."""
        return {**self._given(), "freeze": tuple(sorted(self.freeze, key=FREEZE.index))}

    def points(self) -> list[Settings]:
        """All of them: those with the most frozen first, and those that share frozen layers side by side."""
        values = self.values()
        names = ["freeze", *(name for name in values if name != "freeze")]
        return [dict(zip(names, point, strict=True)) for point in itertools.product(*(values[n] for n in names))]

    def _given(self) -> dict[str, tuple[Any, ...]]:
        return {field.name: tuple(getattr(self, field.name)) for field in dataclasses.fields(self)}


class Outcome(NamedTuple):
    """What became of a trial: metrics.json of its run, or why it failed.

    Attributes:
        stops: whether no other trial would fare better, as on a full disk.
    """

    metrics: dict[str, Any] | None
    cause: str = ""
    stops: bool = False


OnTrial = Callable[[pd.Series, int], None]  # a row of the table, trials done


def sweep(
    manifest: pd.DataFrame,
    root: Path,
    base: TrainConfig,
    grid: Grid,
    out: Path,
    *,
    trials: int = 50,
    jobs: int = 1,
    weights: Mapping[str, str] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    on_trial: OnTrial | None = None,
) -> pd.DataFrame:
    """Train with many settings; split test is never looked at.

    A sweep that was stopped goes on, a trial in the middle of its run; one that is done may be given more trials.
    Failed ones are not tried again, unless study.db is deleted: what is done is found again by its folders.

    Args:
        manifest: with `split`; see `classify.train.train`.
        root: the data root.
        base: all that the grid does not name; its seed is that of the proposals too. Where several processes work and
            it names no threads, they share the processor.
        grid: what is tried.
        out: folder of the sweep, made if need be: a run folder for each trial, trials.csv, sweep.html, study.db.
        trials: how many, of those before included.
        jobs: processes that each train; 1 trains in this one.
        weights: those of single architectures; `base.weights` for the others.
        cache: as `classify.train.train`.
        progress: called with (done, to do) while images are decoded.
        on_trial: called after every trial.

    Returns:
        trials.csv, a row a trial, the best first: `run` (its folder), `state` (complete, failed), the settings,
        `macro_f1` and `accuracy` on split val with their 95 % intervals `_low`, `_high`, `images`, `best_epoch`,
        `epochs_run`, `seconds`, `cause` of a failure.

    Raises:
        CurateError: the manifest cannot be trained on, an architecture or its weights cannot be had, a sweep of that
            name has other settings or works just now, the disk refuses, or all trials failed.
    """
    used, classes = check_rows(manifest)
    base = dataclasses.replace(base.on_this_machine(), processes=1, threads=base.threads or _threads(jobs))
    chosen = {arch: (weights or {}).get(arch, base.weights) for arch in grid.arch}
    cache = cache or root / "cache"
    with _alone(out):
        _open(out, {**_about(base, grid, chosen), "images": data_digest(used, content_keys(used, root))})
        for arch in grid.arch:
            check_side(build(arch, len(classes), weights=chosen[arch]), arch, base.image_size)
        load_pixels(used, root, base.image_size, cache=cache, crop=base.crop, progress=progress)
        work = _Sweep(_study(out), grid, base, chosen, out, trials, on_trial)
        shared = (run_trial, manifest, root, cache)
        with Here(*shared) if jobs == 1 else Workers(jobs, *shared) as workers:
            work.run(workers)
        table = work.table()
        if not (table["state"] == "complete").any():
            raise CurateError(f"{out}: all {len(table)} trials failed. The first: {table['cause'].iloc[0]}")
        sweep_page(out, table, work.study, grid.values(), len(grid.points()))
    return table


def run_trial(manifest: pd.DataFrame, root: Path, cache: Path, config: TrainConfig, run: Path) -> Outcome:
    """Train, or go on, or find that it is done; what stops a training is the cause of a failure."""
    with _quiet():
        try:
            if (run / "metrics.json").is_file():
                return Outcome(json.loads((run / "metrics.json").read_text(encoding="utf-8")))
            return Outcome(train(manifest, root, config, run, cache=cache))
        except OSError as error:
            return Outcome(None, f"{run}: {error}", stops=True)
        except (CurateError, RuntimeError, ValueError, MemoryError) as error:  # torch: no memory left, wrong shapes
            kind = "" if isinstance(error, CurateError) else f"{type(error).__name__}: "
            return Outcome(None, f"{kind}{error}".strip())


def name_of(settings: Settings) -> str:
    """The folder of the run with these settings."""
    of = settings
    rates = f"dropout{of['dropout']}-decay{of['weight_decay']}-lr{of['learning_rate']}"
    return f"{of['arch']}-{of['freeze']}-batch{of['batch_size']}-{rates}".replace("/", "-")


class _Sweep:
    """The trials of a sweep: which comes next, and what became of each."""

    def __init__(
        self,
        study: optuna.Study,
        grid: Grid,
        base: TrainConfig,
        weights: Mapping[str, str],
        out: Path,
        trials: int,
        on_trial: OnTrial | None,
    ) -> None:
        self.study, self.grid, self.base, self.weights, self.out = study, grid, base, weights, out
        self.points, self.on_trial = grid.points(), on_trial
        self.most = min(trials, len(self.points))
        self.spaces: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in grid.values().items()
        }
        self.running: dict[int, Settings] = {}
        self.tries: dict[int, int] = {}
        self.seen = {_shares(trial.params) for trial in self._trials(*DONE)}

    def run(self, workers: Here | Workers) -> None:
        """Until all trials are done: first those that were stopped."""
        stopped = [(t.number, t.params) for t in self._trials(TrialState.RUNNING)]
        while True:
            while workers.free and (trial := stopped.pop(0) if stopped else self._next()):
                self._start(workers, *trial)
            if not self.running:
                return
            number, outcome = workers.wait()
            self._end(workers, number, outcome)

    def table(self) -> pd.DataFrame:
        """See `sweep`."""
        rows = [self._row(trial) for trial in self._trials(*DONE)]
        table = pd.DataFrame(rows, columns=[*COLUMNS, *self.grid.values(), *FIGURES])
        return table.sort_values(["macro_f1", "run"], ascending=[False, True], ignore_index=True)

    def _start(self, workers: Here | Workers, number: int, settings: Settings) -> None:
        config = dataclasses.replace(self.base, **settings, weights=self.weights[settings["arch"]])
        self.running[number] = settings
        self.tries[number] = self.tries.get(number, 0) + 1
        workers.start(number, config, self.out / name_of(settings))

    def _end(self, workers: Here | Workers, number: Any, outcome: Outcome | Died) -> None:
        settings = self.running.pop(number)
        if isinstance(outcome, Died):
            if self.tries[number] < TRIES:
                self._start(workers, number, settings)
                return
            outcome = Outcome(None, f"its process ended with exit code {outcome.code}: too little memory?")
        if outcome.stops:
            raise CurateError(f"{outcome.cause}. The sweep goes on from here when the same command is given again.")
        self.seen.add(_shares(settings))
        run = self.out / name_of(settings)
        if outcome.metrics is None:
            run.mkdir(exist_ok=True)
            with replacing(run / FAILED) as temporary:
                temporary.write_text(outcome.cause, encoding="utf-8")
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, outcome.metrics["val"]["macro_f1"])
        table = self.table()
        write_table(table, self.out / "trials.csv")
        if self.on_trial:
            self.on_trial(table[table["run"] == run.name].iloc[0], len(table))

    def _next(self) -> tuple[int, Settings] | None:
        """The number and the settings of a trial to start now, if there is one."""
        tried = {name_of(trial.params) for trial in self._trials()}
        if len(tried) >= self.most:
            return None
        running = [settings for settings in self.running.values() if settings["freeze"] != "none"]
        blocked = {_shares(settings) for settings in running} - self.seen
        free = [p for p in self.points if name_of(p) not in tried and _shares(p) not in blocked]
        if not free:
            return None
        settings = free[0] if self.most == len(self.points) else self._proposed(tried, free)
        begun = create_trial(state=TrialState.RUNNING, params=settings, distributions=self.spaces)
        self.study.add_trial(begun)  # not `ask`, which writes in many steps between which a process may be killed
        return self._trials()[-1].number, settings

    def _proposed(self, tried: set[str], free: list[Settings]) -> Settings:
        """What Optuna would try next, of what is free: asked in a copy of the study, to leave no trace of the rest."""
        rng = np.random.default_rng((self.base.seed, len(tried)))
        sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)))
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials(self._trials())
        names = {name_of(point): point for point in free}
        for _ in range(ASKED):
            if (name := name_of(copy.ask(self.spaces).params)) in names:
                return names[name]
        return free[rng.integers(len(free))]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        run = self.out / name_of(trial.params)
        if trial.state == TrialState.FAIL:
            return {"run": run.name, "state": "failed", **trial.params, "cause": _read(run / FAILED)}
        row = {"run": run.name, "state": "complete", **trial.params, "macro_f1": trial.value}
        try:
            metrics = json.loads(_read(run / "metrics.json"))
            for figure in ("macro_f1", "accuracy"):
                low, high = metrics["val"]["interval_95"][figure]
                row |= {figure: metrics["val"][figure], f"{figure}_low": low, f"{figure}_high": high}
            row["images"] = metrics["val"]["images"]
            row |= {name: metrics[name] for name in ("best_epoch", "epochs_run", "seconds")}
        except (ValueError, KeyError, TypeError):
            row["cause"] = "its folder is gone or damaged"
        return row


def _shares(settings: Settings) -> tuple[str, str]:
    """Trials alike in this have frozen layers in common, where they have any."""
    return settings["arch"], settings["freeze"]


def _threads(jobs: int) -> int | None:
    return None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Make the folder; CurateError where another process sweeps in it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", blocking=False):
            yield
    except filelock.Timeout:
        raise CurateError(f"{out}: another sweep works there just now. Wait for it, or take another --name.") from None


def _about(base: TrainConfig, grid: Grid, weights: Mapping[str, str]) -> dict[str, Any]:
    """What makes two sweeps the same."""
    of_grid = grid.values()
    fixed = {
        k: v for k, v in dataclasses.asdict(base).items() if k not in (*of_grid, "weights", "threads", "processes")
    }
    return {**{name: list(values) for name, values in of_grid.items()}, **fixed, "weights": dict(weights)}


def _open(out: Path, about: dict[str, Any]) -> None:
    """Write sweep.json, or find that it says the same."""
    path = out / "sweep.json"
    if not path.exists():
        if any(file.name != ".lock" for file in out.iterdir()):
            raise CurateError(f"{out} is there already and is no sweep. Take another --name.")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(about, indent=2))
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError, TypeError) as error:
        raise CurateError(f"{path} is damaged. Take another --name.") from error
    changed = [name for name in {**about, **before} if about.get(name) != before.get(name)]
    if changed:
        told = ", ".join(f"{name} {before.get(name)} -> {about.get(name)}" for name in changed if name != "images")
        raise CurateError(
            f"sweep {out} has other settings ({told or 'other images, labels or splits'}). Take another --name."
        )


def _study(out: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = out / STUDY
    try:
        # Not by its address: a path may hold what an address gives a meaning to.
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(path)})
        return optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
    except (sqlalchemy.exc.DatabaseError, optuna.exceptions.OptunaError, RuntimeError) as error:
        raise CurateError(
            f"{path} is damaged, or was made by another version of Optuna: {str(error).splitlines()[0]}. Delete it: "
            "trials that are done are found again by their folders."
        ) from error


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: what a trial has to say of the images, the sweep has said once."""
    log = logging.getLogger("classify")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
