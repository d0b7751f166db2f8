"""The `curate` command: thin shells that read, call a stage, write, and say in one line what happened, and where."""

import os
from pathlib import Path
from typing import Annotated

import typer

from curate.manifest import CurateError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn an image search into a reviewed, balanced data set. The loop: scrape, dedup, audit, review, balance; "
    "then `classify train`.",
)
MANIFESTS = Path("manifests")
RecipePath = Annotated[Path | None, typer.Option("--recipe", "-r", help="What to collect (TOML).", show_default=False)]
DataRoot = Annotated[Path, typer.Option("--data", help="The data root: images, ledger and cache.")]
LedgerUrl = Annotated[
    str, typer.Option("--ledger", help="Ledger file, or any SQLAlchemy URL. [default: DATA/ledger.db]")
]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Ask only these, in this order; repeatable.")]
Folder = Annotated[str, typer.Option(help="Root of class folders, for the source `folder`.")]
Mirrors = Annotated[
    list[str] | None, typer.Option("--mirror", help="Reach HOST by another base: https://www.bing.com=http://BASE.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes that measure pixels.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn by chance.")]
Arch = Annotated[str, typer.Option(help="Backbone for embeddings and heatmaps: a torchvision name or small_cnn.")]
Weights = Annotated[str, typer.Option(help="DEFAULT (torchvision downloads them), or the path of a weights file.")]
Run = Annotated[Path | None, typer.Option(help="Embed with a trained run instead: runs/NAME.")]
Reviewer = Annotated[str, typer.Option(help="Who decides.")]


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="A shipped recipe, or the name of a new one.")] = "",
    classes: Annotated[str, typer.Option(help="Classes of a new recipe, separated by commas.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write it. [default: manifests/NAME.toml]")
    ] = None,
) -> None:
    """Write a recipe to start from: curate init igneous, or curate init trees --classes oak,beech,birch"""
    from curate.recipe import copy_shipped, shipped_recipes, write_recipe

    labels = [label.strip() for label in classes.split(",") if label.strip()]
    name = name or ("dataset" if labels else "")
    if not name:
        raise CurateError(
            f"which recipe? `curate init NAME` with one of {', '.join(shipped_recipes())}, "
            "or `curate init --classes oak,beech,birch`."
        )
    path = out or MANIFESTS / f"{name}.toml"
    if labels:
        write_recipe(name, labels, path)
    else:
        copy_shipped(name, path)
    typer.echo(f"{path}: edit its queries, then: curate scrape --per-class 100 --recipe {path}")


@app.command()
def scrape(
    per_class: Annotated[int, typer.Option(min=1, help="Images to hold of each class.")] = 100,
    recipe: RecipePath = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = MANIFESTS / "scraped.csv",
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
    source: Sources = None,
    folder: Folder = "",
    mirror: Mirrors = None,
) -> None:
    """Fetch images until each class holds the number asked for: curate scrape --per-class 100"""
    from curate.console import print_table, progress_bars
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import write_manifest
    from curate.recipe import choose_recipe
    from curate.scrape import collected
    from curate.scrape import scrape as run

    plan = choose_recipe(recipe, source, folder, mirror)
    typer.echo(f"recipe {plan.name}: {', '.join(plan.labels)}; sources {', '.join(plan.sources)}", err=True)
    with Ledger(ledger_url(ledger, data)) as book, progress_bars() as progress:
        result = run(plan, dict.fromkeys(plan.labels, per_class), root=data, ledger=book, progress=progress)
        table = collected(book, plan.labels)
    if len(table):
        write_manifest(table, out)
    _echo_problems(result.problems)
    said = f"{len(table)} images of {len(plan.classes)} classes: {out if len(table) else 'no manifest is written'}"
    if result.short:
        rows = [(c, str(per_class), str(result.counts[c]), _causes(result.causes.get(c, {}))) for c in result.short]
        print_table(("class", "asked", "held", "what became of the other candidates"), rows)
        _give_up(f"{said}. {len(result.short)} classes are short of {per_class}; all that came is kept.")
    typer.echo(said)


@app.command()
def dedup(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "scraped.csv",
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = MANIFESTS / "unique.csv",
    data: DataRoot = Path("data"),
) -> None:
    """Mark copies of the same photograph, the best one kept: curate dedup manifests/scraped.csv"""
    from curate.console import progress_bars
    from curate.dedup import find_copies, mark_duplicates
    from curate.manifest import read_manifest, write_manifest

    table = read_manifest(manifest)
    with progress_bars() as progress:
        pairs = find_copies(table, data, progress=progress)
    marked = mark_duplicates(table, pairs)
    write_manifest(marked, out)
    copies, conflicts = (marked["status"] == "duplicate").sum(), marked["label_conflict"].notna().sum()
    typer.echo(f"{copies} of {len(marked)} images are copies, {conflicts} lie under two classes: {out}")


@app.command()
def audit(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "unique.csv",
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = MANIFESTS / "audited.csv",
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
    arch: Arch = "mobilenet_v2",
    weights: Weights = "DEFAULT",
    run: Run = None,
    quick: Annotated[bool, typer.Option("--quick", help="Without heatmaps.")] = False,
    jobs: Jobs = 2,
    seed: Seed = 0,
) -> None:
    """Measure what each image shows and what a model makes of it: curate audit --weights mobilenet_v2.pth"""
    from curate.audit import audit as run_audit
    from curate.console import progress_bars
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import read_manifest, write_manifest
    from curate.wiring import Model

    table = read_manifest(manifest)
    with Ledger(ledger_url(ledger, data)) as book, progress_bars() as progress:
        model = Model(arch, weights, run, data, progress)
        table = run_audit(
            table,
            book.standing(),
            root=data,
            embed=model.embed,
            explain=None if quick else model.explain,
            jobs=jobs,
            seed=seed,
            progress=progress,
        )
    write_manifest(table, out)
    flagged = int(table["flags"].notna().sum())
    typer.echo(f"{flagged} of {len(table)} images are flagged; look at the most suspicious with `curate review`: {out}")


@app.command()
def review(
    manifest: Annotated[Path | None, typer.Argument(help="[default: the newer of audited.csv, balanced.csv]")] = None,
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
    target: Annotated[int, typer.Option(min=1, help="Images wanted of each class.")] = 73,
    reviewer: Reviewer = "local",
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but this machine's own is at your risk.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it.")] = True,
) -> None:
    """Open the review app: curate review"""
    from curate.ledger import ledger_url
    from curate.manifest import read_manifest
    from curate.wiring import optional

    path = manifest or _newest(MANIFESTS / "audited.csv", MANIFESTS / "balanced.csv")
    read_manifest(path)
    options = {"target": target, "reviewer": reviewer, "host": host, "port": port, "open_browser": browser}
    optional("apps.serve", "apps").serve(path, data, ledger_url(ledger, data), **options)


@app.command()
def decide(
    decisions: Annotated[Path, typer.Argument(help="CSV: image_id or file_name, verdict, reason.")],
    manifest: Annotated[Path, typer.Option(help="Manifest that knows the images.")] = MANIFESTS / "audited.csv",
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
    reviewer: Reviewer = "local",
) -> None:
    """Bring in decisions made elsewhere: curate decide verdicts.csv"""
    from curate.decide import read_decisions
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import read_manifest

    table = read_manifest(manifest)
    with Ledger(ledger_url(ledger, data)) as book:
        new = read_decisions(decisions, table, book.standing(), reviewer)
        book.decide(new)
    kinds = {verdict: sum(d.verdict == verdict for d in new) for verdict in ("accept", "reject", "relabel")}
    counts = ", ".join(f"{n} {verdict}" for verdict, n in kinds.items() if n)
    typer.echo(f"{len(new)} new decisions{f' ({counts})' if counts else ''} in the ledger: {ledger_url(ledger, data)}")


@app.command()
def balance(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "audited.csv",
    per_class: Annotated[
        int | None, typer.Option(min=1, help="Images of each class. [default: the recipe's target]")
    ] = None,
    recipe: RecipePath = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = MANIFESTS / "balanced.csv",
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
    unattended: Annotated[bool, typer.Option("--unattended", help="Take the surest images instead of asking.")] = False,
    source: Sources = None,
    folder: Folder = "",
    mirror: Mirrors = None,
    arch: Arch = "mobilenet_v2",
    weights: Weights = "DEFAULT",
    run: Run = None,
    jobs: Jobs = 2,
    seed: Seed = 0,
) -> None:
    """Apply the decisions, fetch only what is missing, trim and split: curate balance --per-class 73"""
    from curate.console import print_table, progress_bars
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import read_manifest, require_columns, write_manifest
    from curate.recipe import choose_recipe
    from curate.wiring import Model, rebalance, refuse_unknown_labels

    plan = choose_recipe(recipe, source, folder, mirror)
    typer.echo(f"recipe {plan.name}: {', '.join(plan.labels)}; sources {', '.join(plan.sources)}", err=True)
    table = read_manifest(manifest)
    require_columns(table, "status", "suspicion", made_by="curate audit")
    refuse_unknown_labels(table, plan, manifest)
    target = per_class or plan.target
    with Ledger(ledger_url(ledger, data)) as book, progress_bars() as progress:
        model = Model(arch, weights, run, data, progress)
        result, problems = rebalance(
            table,
            plan,
            book,
            model,
            root=data,
            target=target,
            unattended=unattended,
            jobs=jobs,
            seed=seed,
            progress=progress,
        )
    write_manifest(result.manifest, out)
    _echo_problems(problems)
    rows = [
        (c, str(n), str(result.target), str(result.fetched[c]), str(result.waiting[c]))
        for c, n in result.accepted.items()
    ]
    print_table(("class", "accepted", "target", "newly fetched", "undecided"), rows)
    if result.short:
        advice = "" if unattended else f" Judge the undecided ones (curate review {out}), then balance again."
        missing = ", ".join(f"{label} {n}" for label, n in result.short.items())
        _give_up(f"{out}: short of {result.target} in {len(result.short)} classes: {missing}.{advice}")
    typer.echo(f"{len(plan.classes)} classes x {result.target}, split into train, val and test: {out}")


@app.command()
def split(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "balanced.csv",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Manifest to write. [default: the one read]")] = None,
    data: DataRoot = Path("data"),
    val_share: Annotated[float, typer.Option(min=0.01, max=0.49)] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.01, max=0.49)] = 0.1,
    seed: Seed = 0,
) -> None:
    """Split the accepted images 80:10:10, copies kept together: curate split manifests/balanced.csv"""
    from curate.console import progress_bars
    from curate.dedup import find_copies
    from curate.manifest import read_manifest, write_manifest
    from curate.split import split as run

    table = read_manifest(manifest)
    with progress_bars() as progress:
        pairs = find_copies(table, data, progress=progress)
    table = run(table, val_share=val_share, test_share=test_share, seed=seed, copies=pairs)
    write_manifest(table, out or manifest)
    counts = table["split"].value_counts()
    typer.echo(
        f"{counts.get('train', 0)} train, {counts.get('val', 0)} val, {counts.get('test', 0)} test: {out or manifest}"
    )


@app.command()
def stats(manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "scraped.csv") -> None:
    """Count a manifest by class and status: curate stats manifests/balanced.csv"""
    from curate.console import print_table
    from curate.manifest import read_manifest
    from curate.stats import counted, imbalance_ratio, rejections, summary

    table = read_manifest(manifest)
    counts = summary(table)
    cells = counts.map(lambda n: f"{n:.3g}" if isinstance(n, float) else str(n))
    print_table(("class", *counts), [(label, *row) for label, row in zip(counts.index, cells.to_numpy(), strict=True)])
    if table["status"].eq("rejected").any() and "reason" in table:
        reasons = rejections(table)
        rows = [(reason, *map(str, row)) for reason, row in zip(reasons.index, reasons.to_numpy(), strict=True)]
        print_table(("rejected for", *reasons), rows)
    typer.echo(f"imbalance ratio {imbalance_ratio(counts):.3g} (largest class over smallest, {counted(counts)} images)")


def main(args: list[str] | None = None) -> None:
    """The console script: what the user can put right is one line on standard error and exit 1, never a traceback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads would spin against other processes
    try:
        app(args)
    except CurateError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error


def _newest(*paths: Path) -> Path:
    there = [path for path in paths if path.exists()]
    return max(there, key=lambda path: path.stat().st_mtime) if there else paths[0]


def _echo_problems(problems: dict[str, str]) -> None:
    for name, problem in problems.items():
        typer.echo(f"{name}: {problem}", err=True)


def _causes(causes: dict[str, int]) -> str:
    most = sorted(causes.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{n} {cause}" for cause, n in most) or "no more were offered"


def _give_up(message: str) -> None:
    typer.echo(message, err=True)
    raise SystemExit(1)
