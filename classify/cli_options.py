"""What the commands of `classify` have in common."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Manifest = Annotated[Path, typer.Option("--manifest", "-m", help="Manifest to read, with a split.")]
Data = Annotated[Path, typer.Option("--data", help="Data root: where `file_name` begins.")]
Run = Annotated[Path, typer.Argument(help="Run folder that `classify train` made, such as runs/densenet121.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads. Default: all.")]
BALANCED = Path("manifests/balanced.csv")
DATA = Path("data")


def on_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stderr.isatty()


def percent(value: float | None) -> str:
    """A share in per cent; "-" where there is none."""
    return "-" if value is None else f"{value:.2%}"


def use_threads(threads: int | None) -> None:
    """Tell torch, where a number is given."""
    if threads:
        import torch

        torch.set_num_threads(threads)
