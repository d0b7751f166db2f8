"""The `curate` command: thin shells that read, call a stage, write, and say in one line what happened, and where."""

import errno
import gc
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate import cli_findings, cli_records, cli_report
from curate.cli_records import MANIFESTS, DataRoot, LedgerUrl
from curate.errors import CurateError

if TYPE_CHECKING:
    from curate.balance import Balanced, ClassPlan
    from curate.recipe import Recipe
    from curate.scrape import Collection

INTERRUPTED = 130  # exit code after Ctrl-C
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)


class First(StrEnum):
    """What a reviewer sees first: see `curate.screen.next_first`."""

    SUSPICIOUS = "suspicious"
    INFORMATIVE = "informative"
    GOOD = "good"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn an image search into a reviewed, balanced data set. The loop: scrape, dedup, audit, review, balance; "
    "then `classify train`.",
)
RecipePath = Annotated[Path | None, typer.Option("--recipe", "-r", help="What to collect (TOML).", show_default=False)]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Ask only these, in this order; repeatable.")]
Folder = Annotated[str, typer.Option(help="Root of class folders, for the source `folder`.")]
License = Annotated[
    str,
    typer.Option(
        "--license",
        help="What the images' licences must allow: any, cc, commercial, modify, commercial-modify, public-domain. "
        "[default: the recipe's]",
        show_default=False,
    ),
]
Mirrors = Annotated[
    list[str] | None, typer.Option("--mirror", help="Reach HOST by another base: https://www.bing.com=http://BASE.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes or threads that measure pixels.")]
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
    license: License = "",
    mirror: Mirrors = None,
) -> None:
    """Fetch images until each class holds the number asked for: curate scrape --per-class 100"""
    from curate.collected import write_collected
    from curate.console import print_table, progress_bars
    from curate.ledger import Ledger, ledger_url
    from curate.recipe import choose_recipe
    from curate.scrape import scrape as run

    plan = choose_recipe(recipe, source, folder, mirror, license)
    _echo_plan(plan)
    gc.freeze()  # what is loaded stays, and need not be looked through time and again
    with Ledger(ledger_url(ledger, data)) as book, progress_bars() as progress:
        wanted = dict.fromkeys(plan.labels, per_class)
        result = run(plan, wanted, root=data, ledger=book, progress=progress, say=_tell)
        number = write_collected(book, plan.labels, plan.license, out)
    _echo_problems(result.problems)
    said = f"{number} images of {len(plan.classes)} classes: {out if number else 'no manifest is written'}"
    if result.short:
        rows = [(c, str(per_class), str(result.counts[c]), _causes(result, c)) for c in result.short]
        print_table(("class", "asked", "held", "what became of the other candidates"), rows)
        _give_up(f"{said}. {len(result.short)} classes are short of {per_class}; all that came is kept.")
    typer.echo(said)


@app.command()
def dedup(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "scraped.csv",
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = MANIFESTS / "unique.csv",
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
    report: Annotated[bool, typer.Option("--report", help="Write a page of the copies beside the manifest.")] = False,
    against: Annotated[
        Path | None, typer.Option(help="Reject what this other manifest holds too: its test set must stay unseen.")
    ] = None,
    against_data: Annotated[Path | None, typer.Option(help="The data root of that. [default: the same]")] = None,
    jobs: Jobs = 2,
) -> None:
    """Mark copies of the same photograph, the best one kept: curate dedup manifests/scraped.csv --report"""
    from curate.console import progress_bars
    from curate.copies_page import write_copies
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import read_manifest, write_manifest
    from curate.wiring import Other, deduplicate, keep_apart

    if against_data and not against:
        raise CurateError("--against-data is the data root of --against, which is missing.")
    table = read_manifest(manifest)
    other = Other(read_manifest(against), against_data or data, against.name) if against else None
    with Ledger(ledger_url(ledger, data)) as book, progress_bars() as progress:
        marked, pairs = deduplicate(table, data, book, jobs, progress)
        if other:
            marked, leaks, unread = keep_apart(marked, data, other, book, jobs, progress)
    write_manifest(marked, out)
    if report:
        page = out.with_name(f"{out.stem}-copies.html")
        write_copies(marked, pairs, data, page)
        typer.echo(f"the copies side by side: {page}")
    copies, conflicts = (marked["status"] == "duplicate").sum(), marked["label_conflict"].notna().sum()
    typer.echo(f"{copies} of {len(marked)} images are copies, {conflicts} lie under two classes: {out}")
    if other:
        typer.echo(f"{leaks} of {len(marked)} images are in {against} too, and rejected")
        if unread:
            _give_up(
                f"{unread} of {len(other.manifest)} images of {against} could not be read. Is --against-data right?"
            )


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
            backbone=model.backbone.key,
            explain=None if quick else model.explain,
            trunk=model.watch(heatmaps=not quick),
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
    first: Annotated[
        First | None,
        typer.Option(
            "--first",
            help="What comes first. By itself: before there are decisions the informative, then the "
            "suspicious, after a balance the good ones.",
        ),
    ] = None,
    recipe: RecipePath = None,
    runs: Annotated[Path, typer.Option(help="Folder of trained runs, for the page Identify.")] = Path("runs"),
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Beyond this machine's own, a token or Streamlit's login lets people in."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    token: Annotated[
        str,
        typer.Option(
            envvar="DEEPROCK_TOKEN",
            help="Asked of everybody who opens the page, 16 characters or more. By itself: a new one at each start, "
            "where one is needed.",
        ),
    ] = "",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it.")] = True,
) -> None:
    """Open the review app: curate review"""
    from curate.ledger import ledger_url
    from curate.wiring import optional

    path = manifest or _newest(MANIFESTS / "audited.csv", MANIFESTS / "balanced.csv")
    options = {
        "recipe": _recipe_if_any(recipe),
        "runs": runs,
        "target": target,
        "reviewer": reviewer,
        "what": first and first.value,
        "host": host,
        "port": port,
        "token": token,
        "open_browser": browser,
    }
    optional("apps.serve", "apps").serve(path, data, ledger_url(ledger, data), **options)


def _recipe_if_any(path: Path | None) -> "Recipe | None":
    """The recipe of the data set under review; None where none is named and none is found."""
    from curate.recipe import choose_recipe, usual_recipe

    return choose_recipe(path, None, "", None) if path or usual_recipe().exists() else None


@app.command()
def decide(
    decisions: Annotated[Path, typer.Argument(help="CSV: image_id or file_name, verdict, reason.")],
    manifest: Annotated[
        Path | None,
        typer.Option(help="Manifest that knows the images. [default: the newer of audited.csv, balanced.csv]"),
    ] = None,
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
    reviewer: Reviewer = "local",
) -> None:
    """Bring in decisions made elsewhere: curate decide verdicts.csv"""
    from curate.decide import read_decisions
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import read_manifest

    table = read_manifest(manifest or _newest(MANIFESTS / "audited.csv", MANIFESTS / "balanced.csv"))
    with Ledger(ledger_url(ledger, data)) as book:
        new = read_decisions(decisions, table, book.standing(), reviewer)
        book.decide(new)
    kinds = {verdict: sum(d.verdict == verdict for d in new) for verdict in ("accept", "reject", "relabel")}
    counts = ", ".join(f"{n} {verdict}" for verdict, n in kinds.items() if n)
    typer.echo(f"{len(new)} new decisions{f' ({counts})' if counts else ''} in the ledger: {book.where}")


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; fetch and write nothing.")] = False,
    source: Sources = None,
    folder: Folder = "",
    license: License = "",
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
    from curate.wiring import Loop, Model, planned, rebalance, refuse_unknown_labels

    plan = choose_recipe(recipe, source, folder, mirror, license)
    _echo_plan(plan)
    table = read_manifest(manifest)
    require_columns(table, "status", "suspicion", made_by="curate audit")
    refuse_unknown_labels(table, plan, manifest)
    target = per_class or plan.target
    where = ledger_url(ledger, data)
    if dry_run and "://" not in where and not Path(where).exists():
        where = "sqlite://"  # an empty one in memory: a plan makes no file
    with Ledger(where) as book, progress_bars() as progress:
        model = Model(arch, weights, run, data, progress)
        loop = Loop(table, plan, book, model, data, jobs, seed, progress)
        if dry_run:
            _print_plan(planned(loop, target=target, unattended=unattended))
            typer.echo("nothing was fetched and nothing written; the same command without --dry-run does it")
            return
        result = rebalance(loop, target=target, unattended=unattended, announce=_print_plan)
    write_manifest(result.manifest, out)
    _echo_problems(loop.problems)
    rows = []
    for c, n in result.accepted.items():
        undecided = f"{result.waiting[c]} (likely {result.expected[c]:.0f})"
        rows.append((c, str(n), str(result.target), str(result.fetched[c]), undecided))
    print_table(("class", "accepted", "target", "newly fetched", "undecided"), rows)
    if result.short:
        _give_up(f"{out}: short of {result.target} in {len(result.short)} classes: {_stands(result, unattended, out)}")
    typer.echo(f"{len(plan.classes)} classes x {result.target}, split into train, val and test: {out}")


@app.command()
def split(
    manifest: Annotated[Path, typer.Argument(help="Manifest to read.")] = MANIFESTS / "balanced.csv",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Manifest to write. [default: the one read]")] = None,
    data: DataRoot = Path("data"),
    val_share: Annotated[float, typer.Option(min=0.01, max=0.49)] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.01, max=0.49)] = 0.1,
    ledger: LedgerUrl = "",
    seed: Seed = 0,
) -> None:
    """Split the accepted images 80:10:10, copies kept together: curate split manifests/balanced.csv"""
    from curate.console import progress_bars
    from curate.dedup import find_copies
    from curate.duplicates import links
    from curate.ledger import Ledger, ledger_url
    from curate.manifest import read_manifest, write_manifest
    from curate.split import split as run

    table = read_manifest(manifest)
    with Ledger(ledger_url(ledger, data)) as book, progress_bars() as progress:
        pairs = links(find_copies(table, data, progress=progress), table, book.judged_pairs())
    table = run(table, val_share=val_share, test_share=test_share, seed=seed, copies=pairs)
    write_manifest(table, out or manifest)
    counts = table["split"].value_counts()
    typer.echo(
        f"{counts.get('train', 0)} train, {counts.get('val', 0)} val, {counts.get('test', 0)} test: {out or manifest}"
    )


@app.command()
def add(
    given: Annotated[Path, typer.Argument(help="An image, a folder of images, or a zip.")],
    label: Annotated[str, typer.Option(help="The class that all of them belong to.")],
    contributor: Annotated[str, typer.Option(help="Who gives them: the name to credit.")],
    license: Annotated[str, typer.Option(help="The licence they are given under, as CC-BY-4.0 or CC0-1.0.")],
    recipe: RecipePath = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = MANIFESTS / "scraped.csv",
    data: DataRoot = Path("data"),
    ledger: LedgerUrl = "",
) -> None:
    """Take in contributed images: curate add photos.zip --label granite --contributor "Ada" --license CC-BY-4.0"""
    from curate.collected import write_collected
    from curate.console import print_table, progress_bars
    from curate.contribute import add as run
    from curate.ledger import Ledger, ledger_url
    from curate.recipe import choose_recipe

    plan = choose_recipe(recipe, None, "", None)
    who = {"label": label, "contributor": contributor, "license": license}
    with Ledger(ledger_url(ledger, data)) as book, progress_bars() as progress:
        files = run(given, plan, **who, root=data, ledger=book, progress=progress)
        number = write_collected(book, plan.labels, plan.license, out)
    left = files[files["state"] != "taken"]
    if len(left):
        print_table(
            ("file", "state", "cause"),
            [(row.file[-60:], row.state, row.cause or "") for row in left[:100].itertuples()],
        )
        if len(left) > 100:
            typer.echo(f"and {len(left) - 100} more")
    counts = {state: int((files["state"] == state).sum()) for state in ("taken", "repeated", "refused", "failed")}
    said = ", ".join(f"{n} {state}" for state, n in counts.items())
    where = out if number else "no manifest is written"
    said = f"{len(files)} files: {said}. Near-copies of other images are found by `curate dedup {out}`: {where}"
    if not counts["taken"] + counts["repeated"]:
        _give_up(said)
    typer.echo(said)


FURTHER = (
    cli_findings.shortcuts,
    cli_report.report,
    cli_records.stats,
    cli_records.failures,
    cli_records.attribution,
)
for command in FURTHER:
    app.command()(command)


def main(args: list[str] | None = None) -> None:
    """The console script: what the user can put right is one line on standard error and exit 1, never a traceback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads would spin against other processes
    try:
        app(args)
    except CurateError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted; what is done is kept, and the same command goes on from there", err=True)
        raise
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        typer.echo(
            f"error: {error.filename or 'a file'} cannot be read or written: {error.strerror}. Make room, or allow it.",
            err=True,
        )
        raise SystemExit(1) from error


def _newest(*paths: Path) -> Path:
    there = [path for path in paths if path.exists()]
    return max(there, key=lambda path: path.stat().st_mtime) if there else paths[0]


def _print_plan(plans: list["ClassPlan"]) -> None:
    """What `balance` is about to do; on standard output, before it does it."""
    from curate.console import print_table

    rows = []
    for p in plans:
        found = p.next_search
        after = f"{found.source} {found.query!r} from rank {found.next_rank}" if found else "no search has more"
        origin = f"{p.pending} offered already, then {after}" if p.pending else after
        cells = (p.accepted, p.target, p.missing, f"{p.undecided} (likely {p.expected:.0f})", f"{p.observed_yield:.2f}")
        rows.append((p.label, *map(str, cells), str(p.ask), str(p.trimmed), origin if p.ask else "-"))
    print_table(("class", "accepted", "target", "missing", "undecided", "yield", "to fetch", "to trim", "from"), rows)


def _stands(result: "Balanced", unattended: bool, out: Path) -> str:
    """Of the classes that are short: how many are missing, and what would help."""
    dry = dict.fromkeys(result.dry, " (no more could be fetched)")
    missing = ", ".join(f"{label} {n}{dry.get(label, '')}" for label, n in result.short.items())
    if any(result.waiting[label] for label in result.short) and not unattended:
        return f"{missing}. Judge the undecided ones (curate review {out}), then balance again."
    return f"{missing}. More queries or sources in the recipe may help; `curate failures` says what became of the rest."


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _echo_plan(plan: "Recipe") -> None:
    licence = "" if plan.license == "any" else f"; licence {plan.license}"
    _tell(f"recipe {plan.name}: {', '.join(plan.labels)}; sources {', '.join(plan.sources)}{licence}")


def _echo_problems(problems: dict[str, str]) -> None:
    for name, problem in problems.items():
        typer.echo(f"{name}: {problem}", err=True)


def _causes(result: "Collection", label: str) -> str:
    most = sorted(result.causes[label].items(), key=lambda item: -item[1])[:4]
    return "; ".join(filter(None, (", ".join(f"{n} {cause}" for cause, n in most), result.remarks[label])))


def _give_up(message: str) -> None:
    typer.echo(message, err=True)
    raise SystemExit(1)
