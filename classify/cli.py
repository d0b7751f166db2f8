"""The `classify` command: thin shells that read, call, write, say one line. Torch is imported inside the commands."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from curate.errors import CurateError
from curate.manifest import read_manifest

if TYPE_CHECKING:
    from classify.data import Progress
    from classify.train import Epoch

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

Manifest = Annotated[Path, typer.Option("--manifest", "-m", help="Manifest to read, with a split.")]
Data = Annotated[Path, typer.Option("--data", help="Data root: where `file_name` begins.")]
Run = Annotated[Path, typer.Argument(help="Run folder that `classify train` made, such as runs/densenet121.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads. Default: all.")]
BALANCED = Path("manifests/balanced.csv")
DATA = Path("data")


@app.callback()
def classify() -> None:
    """Train, check and explain an image classifier on a curated manifest."""


@app.command()
def train(
    manifest: Manifest = BALANCED,
    data: Data = DATA,
    arch: Annotated[str, typer.Option(help="Any torchvision classifier, or small_cnn.")] = "densenet121",
    freeze: Annotated[
        Literal["head", "last_block", "none"], typer.Option(help="head: only the last layer trains.")
    ] = "none",
    weights: Annotated[str, typer.Option(help="DEFAULT (ImageNet), none (random), or the path of a file.")] = "DEFAULT",
    epochs: Annotated[int, typer.Option(min=1)] = 50,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of the first 10 epochs; halved every 10.")] = 0.01,
    weight_decay: Annotated[float, typer.Option()] = 1e-3,
    dropout: Annotated[float, typer.Option(help="Before the last layer.")] = 0.5,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels; images are stretched to squares.")] = 224,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better validation macro-F1.")] = 15,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 where the processor is faster with it.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    name: Annotated[str | None, typer.Option(help="Of the run. Default: the architecture and what is frozen.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away a run of that name.")] = False,
) -> None:
    """Train a classifier; an unfinished run goes on: classify train --arch resnet18 --freeze head"""
    table = read_manifest(manifest)
    from classify.train import TrainConfig
    from classify.train import train as train_run

    config = TrainConfig(
        arch=arch,
        freeze=freeze,
        weights=weights,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        weight_decay=weight_decay,
        dropout=dropout,
        image_size=image_size,
        patience=patience,
        precision="bfloat16" if bf16 else "float32",
        seed=seed,
        threads=threads,
    )
    run = runs / (name or (arch if freeze == "none" else f"{arch}-{freeze}"))
    if arch == "small_cnn" and weights == "DEFAULT":
        typer.echo("small_cnn has no pretrained weights: it starts from random ones.")
    with _progress("preparing images") as progress:
        metrics = train_run(
            table, data, config, run, overwrite=overwrite, progress=progress, on_epoch=lambda e: _say_epoch(e, epochs)
        )
    val = metrics["val"]
    low, high = val["interval_95"]["accuracy"]
    typer.echo(
        f"validation accuracy {val['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}; chance "
        f"{val['chance_accuracy']:.2%}), macro-F1 {val['macro_f1']:.2%}, best epoch {metrics['best_epoch']} of "
        f"{metrics['epochs_run']}: {run / 'report.html'}"
    )


@app.command()
def evaluate(
    run: Run,
    manifest: Manifest = BALANCED,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="test is for the end; it is logged.")] = "val",
    data: Data = DATA,
    threads: Threads = None,
) -> None:
    """Precision, recall and F1 by class: classify evaluate runs/densenet121 --split test"""
    table = read_manifest(manifest)
    from classify.evaluate import evaluate_run

    _set_threads(threads)
    with _progress("evaluating") as progress:
        result = evaluate_run(run, table, data, split=split, progress=progress)
    _print_table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [row["label"], str(row["images"]), *(_share(row[key]) for key in ("precision", "recall", "f1"))]
            for row in result["per_class"]
        ]
        + [
            [
                "macro average",
                str(result["images"]),
                *(_share(result[f"macro_{k}"]) for k in ("precision", "recall", "f1")),
            ]
        ],
    )
    low, high = result["interval_95"]["accuracy"]
    typer.echo(
        f"{split} accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}; chance "
        f"{result['chance_accuracy']:.2%}), macro-F1 {result['macro_f1']:.2%}: {run / f'evaluation-{split}.json'}"
    )


@app.command()
def explain(
    run: Run,
    manifest: Manifest = BALANCED,
    split: Annotated[Literal["train", "val", "test"], typer.Option()] = "val",
    data: Data = DATA,
    target: Annotated[
        Literal["predicted", "label"], typer.Option(help="The class whose evidence is shown.")
    ] = "predicted",
    threads: Threads = None,
) -> None:
    """Grad-CAM heatmaps of a split: classify explain runs/densenet121 --split test"""
    table = read_manifest(manifest)
    from classify.explain import explain_split

    _set_threads(threads)
    with _progress("explaining") as progress:
        page, images = explain_split(run, table, data, split=split, target=target, progress=progress)
    typer.echo(f"{images} heatmaps of split {split}: {page}")


@app.command()
def predict(
    run: Run,
    photos: Annotated[list[Path], typer.Argument(help="Photos, folders of photos, or manifests.")],
    data: Data = DATA,
    top: Annotated[int, typer.Option(min=1, help="Classes to name.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    threads: Threads = None,
) -> None:
    """What the run says of photos: classify predict runs/densenet121 photo.jpg folder/ --json"""
    from classify.models import load_run
    from classify.predict import predict_photos

    _set_threads(threads)
    found = predict_photos(load_run(run), photos, data, top=top)
    rows: list[dict[str, Any]] = json.loads(found.to_json(orient="records"))
    damaged = sum(row["error"] is not None for row in rows)
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    _print_table(
        ["photo", "predicted", "probability", "cause"],
        [
            [row["file"], row.get("predicted") or "-", _share(row.get("probability")), row["error"] or ""]
            for row in rows
        ],
    )
    typer.echo(f"{len(rows) - damaged} photos predicted by {run}, {damaged} do not open.")


def main(args: list[str] | None = None) -> None:
    """The console script: a `CurateError` becomes one line on stderr and exit code 1."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads are 5-10 x slower on a busy machine
    try:
        app(args)
    except CurateError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        typer.echo("stopped. An unfinished training run goes on when the same command is given again.", err=True)
        raise SystemExit(130) from None


@contextmanager
def _progress(what: str) -> "Iterator[Progress | None]":
    """A bar on a terminal; in a log, a plain line at every tenth."""
    if not sys.stderr.isatty():
        yield lambda done, total: _plain_line(what, done, total)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_line(what: str, done: int, total: int) -> None:
    step = max(total // 10, 64)
    if done == total or done % step < min(step, 32):
        typer.echo(f"{what}: {done} of {total}", err=True)


def _say_epoch(epoch: "Epoch", epochs: int) -> None:
    typer.echo(
        f"epoch {epoch.epoch}/{epochs}  loss {epoch.train_loss:.3f}  val loss {epoch.val_loss:.3f}  "
        f"val accuracy {epoch.val_accuracy:.2%}  val macro-F1 {epoch.val_macro_f1:.2%}"
    )


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: file names and labels are no markup
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
