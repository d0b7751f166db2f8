"""The `classify` command: thin shells that read, call, write, say one line. Torch is imported inside the commands."""

import logging
import os
from typing import Annotated, Literal

import typer

from classify.cli_evaluate import compare, evaluate
from classify.cli_options import BALANCED, DATA, Data, Manifest, Run, Threads, use_threads
from classify.cli_predict import export, predict
from classify.cli_study import study
from classify.cli_sweep import sweep
from classify.cli_train import train
from curate.console import progress_bars
from curate.errors import CurateError
from curate.manifest import read_manifest

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def classify() -> None:
    """Train, check and explain an image classifier on a curated manifest."""


for command in (train, evaluate, compare, sweep, study, predict, export):
    app.command()(command)


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

    use_threads(threads)
    with progress_bars() as bars:
        page, images = explain_split(
            run, table, data, split=split, target=target, progress=lambda done, total: bars("explaining", done, total)
        )
    typer.echo(f"{images} heatmaps of split {split}: {page}")


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


if __name__ == "__main__":
    main()
