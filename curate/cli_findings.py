"""Commands that tell what is wrong with a data set as a whole: shortcuts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.cli_records import MANIFESTS, DataRoot

if TYPE_CHECKING:
    import pandas as pd

    from curate.shortcuts_found import Accuracy, Shortcuts

BEST = 8  # measures that the table of accuracies shows
PARTS = {  # of `curate.masked`, in words
    "whole": ("whole pictures", "whole pictures"),
    "background": ("whole pictures", "background alone"),
    "foreground": ("whole pictures", "foreground alone"),
    "background_only": ("background alone", "background alone"),
    "foreground_only": ("foreground alone", "foreground alone"),
}


def shortcuts(
    manifest: Annotated[Path, typer.Argument(help="Audited or balanced manifest to read.")] = MANIFESTS / "audited.csv",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON to write. [default: MANIFEST's name + -shortcuts.json]")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="The manifest before curation, to compare with.")] = None,
    masked: Annotated[
        bool, typer.Option("--masked", help="Also judge the model on the background alone and the foreground alone.")
    ] = False,
    data: DataRoot = Path("data"),
    arch: Annotated[str, typer.Option(help="With --masked: the backbone, a torchvision name.")] = "mobilenet_v2",
    weights: Annotated[str, typer.Option(help="With --masked: DEFAULT, or the path of a weights file.")] = "DEFAULT",
    run: Annotated[Path | None, typer.Option(help="With --masked: a trained run instead, runs/NAME.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that measure pixels.")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn by chance.")] = 0,
) -> None:
    """Find artifacts that predict the label: curate shortcuts manifests/balanced.csv --against manifests/audited.csv"""
    from dataclasses import replace

    from curate.manifest import read_manifest
    from curate.shortcuts import find_shortcuts
    from curate.shortcuts_found import write_shortcuts

    table = read_manifest(manifest)
    before = find_shortcuts(read_manifest(against), seed=seed) if against else None
    found = find_shortcuts(table, seed=seed)
    if masked:
        found = replace(found, masked=_judge_masked(table, data, (arch, weights, run), jobs, seed))
    path = out or manifest.with_name(f"{manifest.stem}-shortcuts.json")
    write_shortcuts(found, path)
    _print_findings(found)
    _print_accuracies(found)
    if before:
        _print_comparison(before, found)
    for label, n in found.left_out.items():
        typer.echo(f"{label}: left out, with {n} images there are too few to tell")
    if found.unmeasured:
        typer.echo(f"{found.unmeasured} images are not measured and left out; `curate audit` measures them")
    labels = dict.fromkeys(finding.label for finding in found.findings)
    surest = f", the surest: {found.findings[0].label} by {found.findings[0].question()}" if labels else ""
    more = "" if masked else "; --masked judges the model on backgrounds alone"
    typer.echo(f"{len(labels)} of {len(found.images)} classes have a shortcut{surest}{more}: {path}")


def _judge_masked(
    table: "pd.DataFrame", data: Path, backbone: tuple[str, str, Path | None], jobs: int, seed: int
) -> dict[str, object]:
    from curate.audit import measure_all
    from curate.console import progress_bars
    from curate.masked import masked_accuracy
    from curate.shortcuts_found import counted_rows
    from curate.wiring import Model

    rows = counted_rows(table)[0].reset_index(drop=True)
    with progress_bars() as progress:
        model = Model(*backbone, data, progress)
        _, masks = measure_all(rows, data, jobs, progress)
        whole = model.embed(rows)
        background, foreground = (model.embed_masked(rows, masks, keep) for keep in ("background", "foreground"))
    return masked_accuracy(rows["label"].to_numpy(str), whole, background, foreground, seed)


def _print_findings(found: "Shortcuts") -> None:
    from curate.console import print_table

    rows = []
    for f in found.findings:
        shares = (f"{len(f.image_ids)} ({_share(f.share)})", _share(f.share_elsewhere))
        auroc = f"{f.auroc:.2f} ({f.auroc_interval[0]:.2f} to {f.auroc_interval[1]:.2f})"
        rows.append((f.label, f.kind, f.question(), *shares, auroc, f"{f.p:.2g}", f.explained_by or "-"))
    if rows:
        header = ("class", "artifact", "measure", "images", "elsewhere", "AUROC (95 %)", "p adjusted", "goes with")
        print_table(header, rows)


def _print_accuracies(found: "Shortcuts") -> None:
    from curate.console import print_table

    def row(accuracy: "Accuracy") -> tuple[str, ...]:
        told = _percent(accuracy.balanced_accuracy, accuracy.interval)
        name = accuracy.measure if accuracy.kind else "all measures together"
        return name, told, f"{accuracy.p:.2g}", f"{accuracy.best[0]} ({_share(accuracy.best[1])})"

    shown = (found.joint, *found.accuracies[:BEST])
    header = (f"label told from (chance {found.chance:.1%})", "balanced accuracy (95 %)", "p adjusted", "best class")
    print_table(header, map(row, shown))
    if found.masked:
        parts = []
        for part, words in PARTS.items():
            judged = found.masked[part]
            if judged["recall"]:
                best = max(judged["recall"], key=judged["recall"].__getitem__)
                told = _percent(judged["balanced_accuracy"], judged["interval"])
                parts.append((*words, str(judged["images"]), told, f"{best} ({_share(judged['recall'][best])})"))
        print_table(("model fitted on", "judged on", "images", "balanced accuracy (95 %)", "best class"), parts)


def _print_comparison(before: "Shortcuts", after: "Shortcuts") -> None:
    from curate.console import print_table
    from curate.shortcuts_found import compare

    rows = []
    for label, kind, old, new, fate in compare(before, after):
        told = (f"{f.question()} ({_share(f.share)})" if f else "-" for f in (old, new))
        rows.append((label, kind, *told, fate))
    joint = (_percent(found.joint.balanced_accuracy, found.joint.interval) for found in (before, after))
    rows.append(("label told from", "all measures", *joint, ""))
    rows.append(("images looked at", "", *(str(sum(found.images.values())) for found in (before, after)), ""))
    print_table(("class", "artifact", "before (images)", "after (images)", ""), rows)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _percent(value: float, interval: tuple[float, float]) -> str:
    """As "34 % (30 to 38)"."""
    return f"{_share(value)} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
