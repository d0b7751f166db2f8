"""`classify study`: its options."""

from pathlib import Path
from typing import Annotated

import typer

from classify.cli_options import BALANCED, DATA, Data, Manifest, Threads
from curate.console import progress_bars
from curate.manifest import read_manifest


def study(
    manifest: Manifest = BALANCED,
    scraped: Annotated[
        Path | None, typer.Option(help="Manifest before curation: what curating was worth is measured too.")
    ] = None,
    data: Data = DATA,
    arch: Annotated[
        list[str] | None, typer.Option(help="Once for each. Default: vgg19_bn, resnet18, densenet121.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="ARCH=PATH, or ARCH=none, once for each. Default: ImageNet's, downloaded."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the runs that train a head.")] = 50,
    unfrozen_epochs: Annotated[int, typer.Option(min=1, help="Of all others, which take most of the time.")] = 50,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels; images are stretched to squares.")] = 224,
    seeds: Annotated[int, typer.Option(min=2, help="Of what is compared over seeds.")] = 10,
    test: Annotated[bool, typer.Option("--test", help="Look at split test too; every look is logged.")] = False,
    name: Annotated[str, typer.Option(help="Of the study.")] = "study",
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    threads: Threads = None,
) -> None:
    """Every experiment of the study, in one report; goes on after a kill: classify study --scraped scraped.csv"""
    table, before = read_manifest(manifest), None if scraped is None else read_manifest(scraped)
    from classify.study import parse_weights, run_study
    from classify.study_plan import STUDY_ARCHS, StudyConfig

    config = StudyConfig(
        archs=tuple(arch or STUDY_ARCHS),
        epochs=epochs,
        unfrozen_epochs=unfrozen_epochs,
        image_size=image_size,
        seeds=seeds,
        test=test,
        threads=threads,
    )
    with progress_bars() as bars:
        found = run_study(
            table,
            data,
            config,
            runs / name,
            weights=parse_weights(weights or []),
            scraped=before,
            say=typer.echo,
            progress=lambda done, total: bars("preparing images", done, total),
        )
    for row in found.verdicts.itertuples():
        interval = f", by {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})" if row.images else ""
        typer.echo(f"{row.claim}, on {row.split}: {row.answer}{interval}")
    typer.echo(f"{len(found.verdicts)} claims examined: {runs / name / 'report.html'}")
