"""The `classify` command: thin shells that read, call, write, say one line. Torch is imported inside the commands."""

import gc
import logging
import os

import typer

from classify.cli_evaluate import compare, evaluate
from classify.cli_explain import explain
from classify.cli_predict import export, predict
from classify.cli_study import study
from classify.cli_sweep import sweep
from classify.cli_train import train
from curate.errors import CurateError

INTERRUPTED = 130  # what the command line library makes of Ctrl-C
# objects made before Python looks for cycles among them. The libraries' half a million stay: Python's own numbers cost
# a second of a short command, and these no memory that could be measured
GARBAGE = (50_000, 20, 50)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def classify() -> None:
    """Train, check and explain an image classifier on a curated manifest."""


for command in (train, evaluate, compare, sweep, study, explain, predict, export):
    app.command()(command)


def main(args: list[str] | None = None) -> None:
    """The console script: a `CurateError` becomes one line on stderr and exit code 1."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    gc.set_threshold(*GARBAGE)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads are 5-10 x slower on a busy machine
    try:
        app(args)
    except CurateError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted. What is unfinished goes on when the same command is given again.", err=True)
        raise


if __name__ == "__main__":
    main()
