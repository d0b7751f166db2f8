"""`classify train`: its options, in one process or in several."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pandas as pd
import typer

from classify.cli_options import BALANCED, DATA, Data, Manifest, Threads, on_terminal
from curate.console import progress_bars
from curate.manifest import read_manifest

if TYPE_CHECKING:
    from classify.config import TrainConfig
    from classify.run_folder import Epoch

STEPS = "Optimisation"
IMAGES = "Augmentation and images"
SPEED = "Speed and repeatability"


def train(
    manifest: Manifest = BALANCED,
    data: Data = DATA,
    arch: Annotated[str, typer.Option(help="A torchvision classifier, small_cnn or timm/NAME.")] = "densenet121",
    freeze: Annotated[
        Literal["head", "last_block", "none"],
        typer.Option(help="head: only the last layer trains; last_block: the last convolutional block too."),
    ] = "none",
    weights: Annotated[
        str, typer.Option(help="DEFAULT (ImageNet), none (random), a file, or https://...#sha256=DIGEST.")
    ] = "DEFAULT",
    epochs: Annotated[int, typer.Option(min=1)] = 50,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    dropout: Annotated[float, typer.Option(help="Before the last layer.")] = 0.5,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better validation macro-F1.")] = 15,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    name: Annotated[str | None, typer.Option(help="Of the run. Default: the architecture and what is frozen.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away a run of that name.")] = False,
    optimizer: Annotated[
        Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"], typer.Option(rich_help_panel=STEPS)
    ] = "sgd",
    lr: Annotated[float, typer.Option(help="Learning rate of the first epochs.", rich_help_panel=STEPS)] = 0.01,
    schedule: Annotated[
        Literal["step", "cosine"], typer.Option(help="step: halved every 10 epochs.", rich_help_panel=STEPS)
    ] = "step",
    weight_decay: Annotated[float, typer.Option(rich_help_panel=STEPS)] = 1e-3,
    label_smoothing: Annotated[float, typer.Option(rich_help_panel=STEPS)] = 0.0,
    ema: Annotated[
        float, typer.Option(help="Decay of the weights' moving average, such as 0.99; 0: none.", rich_help_panel=STEPS)
    ] = 0.0,
    image_size: Annotated[
        int, typer.Option(min=8, help="Pixels; images are stretched to squares.", rich_help_panel=IMAGES)
    ] = 224,
    crop: Annotated[
        bool, typer.Option("--crop", help="Look at the specimen's part of every image.", rich_help_panel=IMAGES)
    ] = False,
    grayscale: Annotated[
        float, typer.Option(help="Probability that an image loses its colours; 1: all do.", rich_help_panel=IMAGES)
    ] = 0.0,
    colour_jitter: Annotated[
        float, typer.Option(help="Of brightness, contrast and saturation, such as 0.2.", rich_help_panel=IMAGES)
    ] = 0.0,
    smallest_crop: Annotated[
        float, typer.Option(help="Smallest share of the area that a random crop shows.", rich_help_panel=IMAGES)
    ] = 1.0,
    views: Annotated[
        int, typer.Option(min=1, help="Augmented views of an image for frozen layers.", rich_help_panel=IMAGES)
    ] = 8,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="auto: bfloat16 where the processor computes it.", rich_help_panel=SPEED),
    ] = "auto",
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile; seldom pays on a processor.", rich_help_panel=SPEED)
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same weights on a GPU too.", rich_help_panel=SPEED)
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="That share each batch.", rich_help_panel=SPEED)] = 1,
    threads: Threads = None,
) -> None:
    """Train a classifier; an unfinished run goes on: classify train --arch resnet18 --freeze head"""
    table = read_manifest(manifest)
    from classify.config import TrainConfig

    config = TrainConfig(
        arch=arch,
        freeze=freeze,
        weights=weights,
        image_size=image_size,
        crop=crop,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=lr,
        schedule=schedule,
        weight_decay=weight_decay,
        dropout=dropout,
        label_smoothing=label_smoothing,
        ema=ema,
        patience=patience,
        views=views,
        grayscale=grayscale,
        colour_jitter=colour_jitter,
        smallest_crop=smallest_crop,
        precision=precision,
        compile=compile_,
        deterministic=deterministic,
        seed=seed,
        threads=threads,
        processes=processes,
    )
    run = runs / (name or (arch if freeze == "none" else f"{arch}-{freeze}").replace("/", "-"))
    if arch == "small_cnn" and weights == "DEFAULT":
        typer.echo("small_cnn has no pretrained weights: it starts from random ones.")
    metrics = _trained(table, data, config, run, overwrite)
    if not metrics:
        return  # another process of the group has the figures, and says them
    val = metrics["val"]
    low, high = val["interval_95"]["accuracy"]
    typer.echo(
        f"validation accuracy {val['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}; chance "
        f"{val['chance_accuracy']:.2%}), macro-F1 {val['macro_f1']:.2%}, best epoch {metrics['best_epoch']} of "
        f"{metrics['epochs_run']}: {run / 'report.html'}"
    )


def _trained(table: pd.DataFrame, data: Path, config: "TrainConfig", run: Path, overwrite: bool) -> dict[str, Any]:
    if config.processes == 1:
        return _train(table, data, config, run, overwrite)
    from classify.group import launch

    return launch(config.processes, _train, table, data, config, run, overwrite)


def _train(table: pd.DataFrame, data: Path, config: "TrainConfig", run: Path, overwrite: bool) -> dict[str, Any]:
    """In each process; the first shows how far it is."""
    from classify.train import train as train_run

    def on_epoch(epoch: "Epoch") -> None:
        typer.echo(
            f"epoch {epoch.epoch}/{config.epochs}  loss {epoch.train_loss:.3f}  val loss {epoch.val_loss:.3f}  "
            f"val accuracy {epoch.val_accuracy:.2%}  val macro-F1 {epoch.val_macro_f1:.2%}"
        )

    with progress_bars() as bars:
        return train_run(
            table,
            data,
            config,
            run,
            overwrite=overwrite,
            progress=lambda done, total: bars("preparing images", done, total),
            on_step=(lambda _, done, total: bars("epoch", done, total)) if on_terminal() else None,
            on_epoch=on_epoch,
        )
