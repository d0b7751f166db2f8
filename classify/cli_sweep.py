"""`classify sweep`: its options."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classify.cli_options import BALANCED, DATA, Data, Manifest, Threads, percent
from curate.console import print_table, progress_bars
from curate.manifest import read_manifest

if TYPE_CHECKING:
    import pandas as pd

GRID = "What is tried: once for each value (default: the study's)"
BEST = 10

Floats = list[float] | None


def sweep(
    manifest: Manifest = BALANCED,
    data: Data = DATA,
    trials: Annotated[int, typer.Option(min=1, help="In all; those of before included.")] = 50,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that each train.")] = 1,
    name: Annotated[str, typer.Option(help="Of the sweep.")] = "sweep",
    arch: Annotated[list[str] | None, typer.Option(rich_help_panel=GRID)] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="head, last_block, none.", rich_help_panel=GRID)] = None,
    batch_size: Annotated[list[int] | None, typer.Option(min=1, rich_help_panel=GRID)] = None,
    dropout: Annotated[Floats, typer.Option(rich_help_panel=GRID)] = None,
    weight_decay: Annotated[Floats, typer.Option(rich_help_panel=GRID)] = None,
    lr: Annotated[Floats, typer.Option(rich_help_panel=GRID)] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="ARCH=PATH, or ARCH=none, once for each. Default: ImageNet's, downloaded."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 50,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better validation macro-F1.")] = 15,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels; images are stretched to squares.")] = 224,
    crop: Annotated[bool, typer.Option("--crop", help="Look at the specimen's part of every image.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the runs, and of what is tried.")] = 0,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    threads: Threads = None,
) -> None:
    """Which settings are best on validation images; goes on after a kill: classify sweep --freeze head --trials 100"""
    table = read_manifest(manifest)
    from classify.config import TrainConfig
    from classify.study import parse_weights
    from classify.sweep import Grid
    from classify.sweep import sweep as run_sweep

    given: dict[str, Any] = {
        "arch": arch,
        "freeze": freeze,
        "batch_size": batch_size,
        "dropout": dropout,
        "weight_decay": weight_decay,
        "learning_rate": lr,
    }
    base = TrainConfig(epochs=epochs, patience=patience, image_size=image_size, crop=crop, seed=seed, threads=threads)
    with progress_bars() as bars:
        found = run_sweep(
            table,
            data,
            base,
            Grid(**{key: tuple(values) for key, values in given.items() if values}),
            runs / name,
            trials=trials,
            jobs=jobs,
            weights=parse_weights(weights or []),
            progress=lambda done, total: bars("preparing images", done, total),
            on_trial=lambda row, done: typer.echo(f"{done}: {_said(row)}"),
        )
    complete = found[found["state"] == "complete"]
    print_table(
        ["run", "macro-F1", "95 % interval", "accuracy", "best epoch"],
        [
            [
                row["run"],
                percent(row["macro_f1"]),
                f"{percent(row['macro_f1_low'])} to {percent(row['macro_f1_high'])}",
                percent(row["accuracy"]),
                f"{row['best_epoch']:.0f}",
            ]
            for row in complete[:BEST].to_dict("records")
        ],
    )
    typer.echo(
        f"{len(complete)} trials done, {len(found) - len(complete)} failed. The best of so many, chosen on the same "
        f"validation images, looks better than it is: {runs / name / 'sweep.html'}"
    )


def _said(row: "pd.Series") -> str:
    if row["state"] == "failed":
        return f"{row['run']} failed: {row['cause']}"
    return f"{row['run']}: macro-F1 {percent(row['macro_f1'])}, {row['seconds']:.0f} s"
