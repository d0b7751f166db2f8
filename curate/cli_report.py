"""The command that writes a page of what an audit found."""

from pathlib import Path
from typing import Annotated

import typer

from curate.cli_records import MANIFESTS, DataRoot, LedgerUrl
from curate.errors import CurateError


def report(
    manifest: Annotated[
        Path | None, typer.Argument(help="Manifest to read; by default the newer of audited.csv and balanced.csv.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write; by default MANIFEST's name + -report.html.")
    ] = None,
    target: Annotated[int, typer.Option(min=1, help="Accepted images wanted of each class.")] = 73,
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
) -> None:
    """Write a page of what the audit found, and what to do next: curate report manifests/audited.csv"""
    from curate.findings import decided, find
    from curate.findings_page import write_findings
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import read_manifest
    from curate.next_steps import next_steps

    path = manifest or _newest(MANIFESTS / "audited.csv", MANIFESTS / "balanced.csv")
    table = read_manifest(path)
    where = ledger_url(ledger, data)
    if "://" in where or Path(where).exists():
        with Ledger(where) as book:
            table = decided(table, book.standing())
    found = find(table, path, data, target)
    page = out or path.with_name(f"{path.stem}-report.html")
    write_findings(found, page)
    flagged = len({image for flag in found.flags for image in flag.images})
    steps = len(next_steps(found))
    typer.echo(f"{flagged} of {len(found.rows)} images are flagged; {steps} steps to take next: {page}")


def _newest(*paths: Path) -> Path:
    """The manifest that was written last.

    Raises:
        CurateError: there is none.
    """
    there = [path for path in paths if path.exists()]
    if not there:
        raise CurateError(f"{paths[0]}: no audit to report yet. Run `curate audit` first; it writes that manifest.")
    return max(there, key=lambda path: path.stat().st_mtime)
