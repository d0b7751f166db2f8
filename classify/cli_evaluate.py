"""`classify evaluate` and `classify compare`: their options, and what they say."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from classify.cli_options import BALANCED, DATA, Data, Manifest, Run, Threads, percent, use_threads
from curate.console import print_table, progress_bars
from curate.manifest import read_manifest


def evaluate(
    run: Run,
    manifest: Manifest = BALANCED,
    split: Annotated[
        Literal["train", "val", "test"],
        typer.Option(help="test is for the end; it is logged. Without a split in the manifest: all accepted images."),
    ] = "val",
    data: Data = DATA,
    grayscale: Annotated[bool, typer.Option("--grayscale", help="Show the model the images without colour.")] = False,
    foreground_only: Annotated[
        bool, typer.Option("--foreground-only", help="Paint over what surrounds the specimens.")
    ] = False,
    background_only: Annotated[bool, typer.Option("--background-only", help="Paint over the specimens.")] = False,
    threads: Threads = None,
) -> None:
    """How good a run is, and where it is wrong: classify evaluate runs/densenet121 --split test"""
    table = read_manifest(manifest)
    from classify.ablate import only_one
    from classify.evaluate import evaluate_run

    chosen = {"grayscale": grayscale, "foreground-only": foreground_only, "background-only": background_only}
    ablation = only_one(chosen)
    use_threads(threads)
    with progress_bars() as bars:
        result = evaluate_run(
            run,
            table,
            data,
            split=split,
            name=manifest.stem,
            ablation=ablation,
            progress=lambda done, total: bars("evaluating", done, total),
        )
    for sentence in _said(run, result):
        typer.echo(sentence)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, such as runs/*.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write. Default: compare/ beside the first run.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Run to test the others against. Default: the best macro-F1.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Curves, figures and paired tests of several runs: classify compare runs/*"""
    from classify.compare import compare_runs

    out = out or runs[0].parent / "compare"
    table = compare_runs(runs, out, baseline=baseline, seed=seed)
    print_table(
        ["run", "images", "accuracy", "macro-F1", "95 % interval", "p (Holm)"],
        [
            [
                row["run"],
                str(row["images"]),
                percent(row["accuracy"]),
                percent(row["macro_f1"]),
                f"{percent(row['macro_f1_low'])} to {percent(row['macro_f1_high'])}",
                "-" if row["p_holm"] != row["p_holm"] else f"{row['p_holm']:.3g}",  # of the baseline itself: NaN
            ]
            for row in table.to_dict("records")
        ],
    )
    typer.echo(f"{len(table)} runs compared: {out / 'compare.html'}")


def _said(run: Path, result: dict[str, Any]) -> list[str]:
    """Print the table of the classes; the sentences that follow it."""
    keys = ("precision", "recall", "f1")
    rows = [[row["label"], str(row["images"]), *(percent(row[key]) for key in keys)] for row in result["per_class"]]
    rows.append(["macro average", str(result["images"]), *(percent(result[f"macro_{key}"]) for key in keys)])
    print_table(["class", "images", "precision", "recall", "F1"], rows)
    sentences = []
    if result["part"] != result["split"]:
        sentences.append(f"These are {result['images_are']}.")
    if worst := result["worst_group"]:
        low, high = percent(worst["low"]), percent(worst["high"])
        sentences.append(
            f"worst group: {worst['by']} {worst['group']}, accuracy {percent(worst['accuracy'])} (95 % interval {low} "
            f"to {high}) of {worst['images']} images"
        )
    sure = result["calibration"]
    scaled = f", {sure['error_scaled']:.3f} at temperature {sure['temperature']:.2f}" if sure["temperature"] else ""
    sentences.append(
        f"calibration error {sure['error']:.3f} ({sure['error_by_chance']:.3f} expected of a calibrated model){scaled}"
    )
    low, high = result["interval_95"]["accuracy"]
    sentences.append(
        f"{result['stem']} accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}; chance "
        f"{result['chance_accuracy']:.2%}), macro-F1 {result['macro_f1']:.2%}: {run}/evaluation-{result['stem']}.html"
    )
    return sentences
