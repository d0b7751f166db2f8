"""What to do next about a data set: sentences and commands that follow from what an audit found."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from curate.balance import undecided
from curate.findings import UNREADABLE, Findings, independent
from curate.page_pieces import Said, so_many_images
from curate.shortcuts_found import Finding, Shortcuts

MOST_NAMED = 5  # shortcuts, flags or classes in one sentence
REMEDIES = {  # of a shortcut, by its artifact
    "background": "Reject those that carry it for their background, and search for the class with other words",
    "illumination": "Reject those that carry it for their illumination, and search for photos in other light",
    "object_count": "Reject those that carry it for showing multiple objects, and search for single specimens",
    "overlay": "Reject those that carry it for their overlay, and leave out the site that marks its pictures",
    "quality": "Take all classes from the same sources, so that size and compression do not tell them apart",
}


class Step(NamedTuple):
    """Something to do, and the command that begins it."""

    what: Said
    command: str


def next_steps(at: Findings) -> list[Step]:
    """The steps, in the order in which they are best taken."""
    return [*_copies(at), *_shortcuts(at), *_review(at), *_balance(at)]


def command(at: Findings, *words: object) -> str:
    """As it is typed; the data root is said where it is not the usual one."""
    data = () if at.root == Path("data") else ("--data", str(at.root))
    return shlex.join([*map(str, words), *data])


def searched(found: Shortcuts) -> Said:
    """Among which images shortcuts were looked for, and which were left out."""
    text = f"Looked for among {so_many_images(sum(found.images.values()))} ({found.counted})"
    if found.unmeasured:
        text += f"; {so_many_images(found.unmeasured)} without measures left out"
    if found.left_out:
        text += "; too few to tell: " + ", ".join(f"{{}} {n}" for n in found.left_out.values())
    return Said(f"{text}.", tuple(found.left_out))


def _copies(at: Findings) -> Iterator[Step]:
    if "duplicate_of" not in at.table:
        text = "Copies were not looked for. They count several times over, and one of two may end up in the test set."
        yield Step(Said(f"{text} Mark them, then audit again."), command(at, "curate", "dedup", at.manifest))
    elif "label_conflict" in at.rows and at.rows["label_conflict"].notna().any():
        number = so_many_images(int(at.rows["label_conflict"].notna().sum()))
        text = f"{number} with a copy under another class: say on the page Duplicates which class is right."
        yield Step(Said(text), command(at, "curate", "review", at.manifest))


def _shortcuts(at: Findings) -> Iterator[Step]:
    look = command(at, "curate", "shortcuts", at.manifest)
    if at.shortcuts is None:
        yield Step(Said("Shortcuts were not looked for. Find the artifacts that give a class away."), look)
        return
    if at.stale:
        yield Step(Said("The manifest has changed since shortcuts were looked for. Look again."), look)
    found = independent(at.shortcuts)
    for kind in dict.fromkeys(finding.kind for finding in found):
        said = _given_away([finding for finding in found if finding.kind == kind])
        yield Step(said, command(at, "curate", "review", at.manifest))
    if at.shortcuts.masked is None:
        text = "What the model tells from backgrounds alone was not tried. Judge it with the foreground masked."
        yield Step(Said(text), command(at, "curate", "shortcuts", at.manifest, "--masked"))


def _given_away(findings: list[Finding]) -> Said:
    """Of the shortcuts of one artifact: which classes, by what, and what helps."""
    named = findings[:MOST_NAMED]
    each = "; ".join(f"{{}} told by {{}} (AUROC {f.auroc:.2f}, {so_many_images(len(f.image_ids))})" for f in named)
    more = f"; and {len(findings) - len(named)} more" if len(findings) > len(named) else ""
    kind = findings[0].kind
    names = tuple(name for f in named for name in (f.label, f.question()))
    remedy = REMEDIES.get(kind, "Reject those that carry it")
    return Said(f"Shortcuts by {{}}: {each}{more}. {remedy}.", (kind.replace("_", " "), *names))


def _review(at: Findings) -> Iterator[Step]:
    review = command(at, "curate", "review", at.manifest)
    waiting = set(undecided(at.table)["image_id"])
    kinds = {flag.name: waiting & set(flag.images) for flag in at.flags}
    damaged = len(kinds.pop(UNREADABLE, ()))
    flagged = set().union(*kinds.values())
    if flagged:
        largest = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
        most = ", ".join(f"{name} {len(images)}" for name, images in largest[:MOST_NAMED])
        text = f"Review the {so_many_images(len(flagged))} with flags ({most}); the most suspicious come first."
        yield Step(Said(text), review)
    if damaged:
        yield Step(Said(f"{so_many_images(damaged)} that cannot be opened: reject, and others are fetched."), review)
    if doubtful := waiting & set(at.doubtful):
        text = f"{so_many_images(len(doubtful))} that a model takes for another class: relabel, reject or accept."
        yield Step(Said(text), review)
    if at.screen is None and waiting:
        text = "The screen knows no decisions. Judge some ten images of each class and audit again: it sorts the rest."
        yield Step(Said(text), review)
    elif at.screen and at.screen.unsure:
        text = f"{so_many_images(at.screen.unsure)} that the screen is not sure of: decisions on these teach it most."
        yield Step(Said(text), review)


def _balance(at: Findings) -> Iterator[Step]:
    missing = (at.target - at.counts["accepted"]).clip(lower=0)
    short = missing[missing > 0]
    balance = ("curate", "balance", at.manifest, "--per-class", at.target)
    if len(short):
        names = ", ".join(f"{{}} by {n}" for n in short)
        text = (
            f"Short of {at.target} accepted images: {names}. See what would be fetched, then run it without --dry-run."
        )
        yield Step(Said(text, tuple(map(str, short.index))), command(at, *balance, "--dry-run"))
    elif "split" not in at.table or at.table["split"].isna().all():
        text = f"Every class has {at.target} accepted images. Trim each to that and split into train, val and test."
        yield Step(Said(text), command(at, *balance))
    else:
        text = f"Every class has {at.target} accepted images, and they are split. Train."
        yield Step(Said(text), command(at, "classify", "train", "--manifest", at.manifest))
