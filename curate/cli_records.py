"""Commands that tell what a data set is made of: counts, what could not be had, whom to credit."""

from pathlib import Path
from typing import Annotated

import typer

from curate.errors import CurateError

MANIFESTS = Path("manifests")
DataRoot = Annotated[Path, typer.Option("--data", help="The data root: images, ledger and cache.")]
LedgerUrl = Annotated[
    str,
    typer.Option("--ledger", help="Ledger file, or postgresql+psycopg://USER@HOST/DATABASE. [default: DATA/ledger.db]"),
]


def attribution(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "balanced.csv",
    out: Annotated[Path, typer.Option("--out", "-o", help="Markdown to write; a CSV beside it.")] = Path(
        "ATTRIBUTION.md"
    ),
) -> None:
    """Write whom to credit, by licence, and what is unclear: curate attribution manifests/balanced.csv"""
    from curate.attribution import chosen, write_attribution
    from curate.manifest import read_manifest

    table = read_manifest(manifest)
    rights = write_attribution(table, out, read_from=manifest)["rights"].value_counts()
    undecided = ", ".join(
        f"{rights.get(kind, 0)} {words}"
        for kind, words in (
            ("unknown", "of unknown licence"),
            ("filter", "by a search filter only"),
            ("reserved", "all rights reserved"),
        )
    )
    stated = f"{rights.sum()} {chosen(table)}, {rights.get('stated', 0)} with a stated licence"
    typer.echo(f"{stated}; to be decided: {undecided}: {out}")


def failures(
    label: Annotated[str, typer.Option(help="Of this class only.")] = "",
    hosts: Annotated[int, typer.Option(min=1, help="Hosts to show.")] = 15,
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
) -> None:
    """Show what could not be fetched, by cause and by host: curate failures --label granite"""
    from curate.console import print_table
    from curate.failures import failures_by_cause, failures_by_host, of_class, tried_again
    from curate.ledger import Ledger, ledger_url
    from curate.scrape import MAX_ATTEMPTS

    where = ledger_url(ledger, data)
    if "://" not in where and not Path(where).exists():
        raise CurateError(f"{where}: no ledger yet. `curate scrape` makes it; --data or --ledger says where it is.")
    with Ledger(where) as book:
        table = book.failures()
    table = of_class(table, label) if label else table
    if table.empty:
        typer.echo(f"no fetch failed and none was refused: {book.where}")
        return
    causes = failures_by_cause(table, MAX_ATTEMPTS)
    header = ("cause", "fetches", "kind", "tried again", "attempts", "for example")
    print_table(header, causes.astype("str").itertuples(index=False))
    by_host = failures_by_host(table)
    print_table(("host", "fetches", "mostly"), by_host.head(hosts).astype("str").itertuples(index=False))
    again = tried_again(table, MAX_ATTEMPTS)
    typer.echo(
        f"{len(table)} fetches brought no image, {again} of them will be tried again in the next run: {book.where}"
    )


def stats(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "scraped.csv",
    by: Annotated[str, typer.Option(help="Count by these columns instead, as license,source.")] = "",
) -> None:
    """Count a manifest by class and status, or by columns: curate stats manifests/balanced.csv --by license,source"""
    from curate.console import print_table
    from curate.manifest import read_manifest
    from curate.stats import counted, imbalance_ratio, rejections, summary, tally

    table = read_manifest(manifest)
    if by:
        names = [name.strip() for name in by.split(",") if name.strip()]
        combinations = tally(table, names)
        keys = [key if isinstance(key, tuple) else (key,) for key in combinations.index]
        numbers = combinations.to_numpy()
        rows = [(*(k[:60] for k in key), *map(str, row)) for key, row in zip(keys, numbers, strict=True)]
        print_table((*combinations.index.names, *combinations.columns), rows)
        typer.echo(
            f"{len(table)} images, {len(rows)} combinations of {', '.join(combinations.index.names)}: {manifest}"
        )
        return
    counts = summary(table)
    cells = counts.map(lambda n: f"{n:.3g}" if isinstance(n, float) else str(n))
    print_table(("class", *counts), [(label, *row) for label, row in zip(counts.index, cells.to_numpy(), strict=True)])
    if table["status"].eq("rejected").any() and "reason" in table:
        reasons = rejections(table)
        rows = [(reason, *map(str, row)) for reason, row in zip(reasons.index, reasons.to_numpy(), strict=True)]
        print_table(("rejected for", *reasons), rows)
    typer.echo(f"imbalance ratio {imbalance_ratio(counts):.3g} (largest class over smallest, {counted(counts)} images)")
