"""A page of what an audit found and what to do next: one HTML file that opens offline, pictures inside."""

import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from curate.balance import undecided
from curate.files import writing
from curate.findings import (
    BINS,
    PARTS,
    WORST,
    Confusion,
    Findings,
    carriers,
    independent,
    shortcuts_path,
)
from curate.next_steps import Step, command, next_steps, searched
from curate.page_pictures import Album
from curate.page_pieces import (
    Said,
    bar_cell,
    number_cell,
    paragraph,
    percent,
    row_name,
    safe,
    section,
    sentence_with_commands,
    short,
    side_by_side,
    so_many_images,
    table_of,
    with_interval,
)
from curate.screen import SURE
from curate.shortcuts_found import Finding, Shortcuts, compare
from curate.stats import counted, imbalance_ratio, rejections

OPEN = 4  # of the worst images that are not folded away
SHORTCUTS_SHOWN = 8  # with pictures
BESIDE = 6  # images of a class with a shortcut, and as many without
MEASURES_SHOWN = 8  # of those that the label is told from
REASONS_SHOWN = 12  # of rejections
FATES = {"gone": "gone", "left": "still there", "new": "new"}  # of `compare`, in words
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
CSS = """
:root { color-scheme: light dark; --ink: #23262a; --paper: #f4f3f0; --card: #fff; --line: #d3d0c9; --quiet: #5a5f66;
  --good: #1f6b4a; --bad: #a03a2c; --bar: #2f6f62; --hit: #7dbd9f; --miss: #e79a86; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e3df; --paper: #17191b; --card: #212427; --line: #41464b;
  --quiet: #a8adb3; --good: #7ccba5; --bad: #f0a090; --bar: #6fbfae; --hit: #2c6e53;
  --miss: #8d3f30; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.3rem; margin: 3rem 0 .25rem; }
h3 { font-size: 1.0625rem; margin: 1.75rem 0 .25rem; font-weight: 600; }
h4 { font-size: .875rem; margin: .75rem 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 78ch; } a { color: inherit; text-underline-offset: .2em; }
.lead { font-size: 1.0625rem; margin-top: .75rem; }
:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; border-radius: .2rem; }
h1, h3, p { overflow-wrap: anywhere; } code { font: .8125rem/1.4 ui-monospace, monospace; }
.quiet, caption { color: var(--quiet); } .bad { color: var(--bad); } .good { color: var(--good); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 1rem 0 0; padding: .6rem 0;
  border-block: 1px solid var(--line); }
.counts { display: flex; flex-wrap: wrap; gap: .5rem 2.25rem; list-style: none; margin: 1rem 0 0; padding: 0; }
.counts b { font-size: 1.375rem; font-variant-numeric: tabular-nums; display: block; line-height: 1.2; }
.tables { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: .75rem 0 1.25rem; }
.wide { overflow-x: auto; max-width: 100%; background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; padding: .5rem 1rem .6rem; }
table { border-collapse: collapse; font-size: .875rem; } caption { text-align: left; padding: .25rem 0 .4rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1.1rem .35rem 0; border-top: 1px solid var(--line);
  max-width: 18rem; overflow-wrap: break-word; }
th:last-child, td:last-child { padding-right: 0; } thead td, thead th { border-top: 0; }
thead th { font-weight: 500; color: var(--quiet); vertical-align: bottom; } tbody th { font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } thead .n { white-space: normal; }
.zero { color: var(--quiet); }
.track { display: inline-block; width: 7.5rem; height: .55rem; background: var(--line); border-radius: .3rem;
  overflow: hidden; vertical-align: middle; } .track i { display: block; height: 100%; background: var(--bar); }
.matrix td, .matrix thead th { text-align: center; padding: .4rem .6rem; min-width: 4.25rem; }
.matrix thead th:first-child { text-align: left; padding-left: 0; }
.matrix td { border: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.images { display: grid; grid-template-columns: repeat(auto-fill, 284px); gap: 1rem 18px; list-style: none;
  margin: .5rem 0 0; padding: 0; }
.images.triples { grid-template-columns: repeat(auto-fill, 428px); }
.images figure { margin: 0; } .row { display: flex; gap: 4px; } .photo { display: flex; width: 140px; height: 140px;
  align-items: center; justify-content: center; background: color-mix(in srgb, var(--line) 40%, var(--card));
  border-radius: .35rem; overflow: hidden; flex: none; }
.photo img { width: 100%; height: 100%; object-fit: contain; }
.photo p { font-size: .8125rem; padding: .5rem; margin: 0; color: var(--quiet);
  max-height: 100%; overflow: hidden; overflow-wrap: anywhere; }
figcaption { font-size: .8125rem; line-height: 1.4; margin-top: .3rem; overflow-wrap: anywhere; }
.block { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: .9rem 1rem 1rem;
  margin: 0 0 1rem; content-visibility: auto; contain-intrinsic-size: auto 20rem; } .block h3 { margin: 0; }
h3 .quiet, h3 code { font-weight: 400; font-size: .875rem; margin-left: .4rem; }
summary { cursor: pointer; margin-top: .75rem; font-size: .875rem; color: var(--quiet); width: fit-content; }
.split { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1.5rem; } .split > div { min-width: 0; }
@media (max-width: 900px) { .split { grid-template-columns: 1fr; } }
.scale { display: inline-block; width: 8rem; height: .6rem; border-radius: .3rem; vertical-align: middle;
  margin: 0 .4rem; background: linear-gradient(90deg, #440154, #414487, #2a788e, #22a884, #7ad151, #fde725); }
.steps { padding-left: 1.5rem; } .steps li { margin-bottom: .9rem; max-width: 90ch; } .steps p { margin: 0 0 .2rem; }
.steps code { display: inline-block; background: var(--card); border: 1px solid var(--line); border-radius: .35rem;
  padding: .15rem .5rem; user-select: all; }
@media print { .block, .wide { break-inside: avoid; } }
"""


def write_findings(found: Findings, path: Path) -> None:
    """Write the page: counts, flags, shortcuts, confusion, what the screen thinks, and what to do next.

    Args:
        found: of `findings.find`.
        path: the HTML file.

    Raises:
        CurateError: the disk refuses.
    """
    file_names = dict(zip(found.table["image_id"], found.table["file_name"], strict=True))
    album = Album(((image, file_names[image]) for image in _shown(found)), found.root)
    with writing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as page:
        page.write(_head(found))
        page.write(_counts(found))
        page.write(_flags(found, album))
        page.write(_shortcuts(found, album))
        page.write(_confusion(found, album))
        page.write(_screen(found))
        page.write(_steps(next_steps(found)))
        page.write("</main></body></html>\n")


def _shown(found: Findings) -> list[str]:
    """The images whose pictures stand in the page."""
    images = [*found.distracted, *found.doubtful[:WORST]]
    for flag in found.flags:
        images += list(flag.images)[:WORST]
    for finding in _pictured(found):
        images += [image for side in carriers(found.rows, finding) for image in side[:BESIDE]]
    return images


def _pictured(found: Findings) -> list[Finding]:
    return independent(found.shortcuts)[:SHORTCUTS_SHOWN] if found.shortcuts else []


# --- head and counts ---


def _head(found: Findings) -> str:
    counts = found.counts
    flagged = int(found.rows["flags"].notna().sum())
    shortcuts = "?" if found.shortcuts is None else f"{len(found.shortcuts.findings):,}"
    wrong = "?" if found.confusion is None else f"{len(found.doubtful):,}"
    numbers = (
        (f"{len(found.table):,}", "images"),
        (f"{len(counts):,}", "classes"),
        (f"{int(counts['accepted'].sum()):,}", "accepted"),
        (f"{int(counts['rejected'].sum()):,}", "rejected"),
        (f"{int(counts['duplicate'].sum()):,}", "copies"),
        (f"{flagged:,}", "flagged"),
        (shortcuts, "shortcuts"),
        (wrong, "labels in doubt"),
    )
    items = "".join(f"<li><b>{number}</b>{name}</li>" for number, name in numbers)
    places = (
        ("counts", "Counts"),
        ("flags", "Flags and heatmaps"),
        ("shortcuts", "Shortcuts"),
        ("confusion", "Confusion"),
        ("screen", "The screen"),
        ("next", "What to do next"),
    )
    links = "".join(f"<li><a href='#{anchor}'>{name}</a></li>" for anchor, name in places)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Findings: {html.escape(found.manifest.name)}</title><style>{CSS}</style></head>\n"
        f"<body><header><h1>Findings: {safe(found.manifest.name)}</h1>{paragraph(_in_words(found), 'lead')}"
        f"<ul class='counts'>{items}</ul><nav aria-label='Sections'><ul>{links}</ul></nav></header><main>\n"
    )


def _in_words(found: Findings) -> Said:
    """The whole page in a few sentences."""
    sizes = found.rows["label"].value_counts().reindex(found.counts.index, fill_value=0)
    largest, smallest = sizes.idxmax(), sizes.idxmin()
    names = [smallest, largest] if sizes.min() < sizes.max() else []
    each = f"from {sizes.min():,} of {{}} to {sizes.max():,} of {{}}" if names else f"{sizes.max():,} of each class"
    text = f"{len(found.rows):,} images count ({found.counted}), {each}."
    flagged = int(found.rows["flags"].notna().sum())
    if found.flags:
        most = " and ".join(f"“{flag.name}” ({len(flag.images):,})" for flag in found.flags[:2])
        text += f" {percent(flagged / len(found.rows))} of them raise a flag, most often {most}."
    if found.confusion:
        chance = percent(1 / len(found.confusion.matrix))
        text += f" A model that has not seen an image names its class in {percent(found.confusion.accuracy)} of cases"
        text += f" (chance: {chance})."
    if found.shortcuts:
        joint = found.shortcuts.joint
        told = with_interval(joint.balanced_accuracy, joint.interval)
        text += f" From artifacts alone the class can be told with {told} balanced accuracy"
        text += f" (chance: {percent(found.shortcuts.chance)})"
        if best := independent(found.shortcuts)[:1]:
            text += "; the surest shortcut is {}, by {}"
            names += [best[0].label, best[0].question()]
        text += "."
    if found.screen:
        keeps, rejects, unsure = (f"{n:,}" for n in found.screen[1:])
        text += (
            f" Of the undecided images the screen would keep {keeps}, reject {rejects}, and is not sure of {unsure}."
        )
    return Said(text, tuple(map(str, names)))


def _counts(found: Findings) -> str:
    counts, rows = found.counts, []
    for label, row in counts.iterrows():
        accepted = int(row["accepted"])
        numbers = [number_cell(row[name]) for name in ("images", "candidate", "accepted", "rejected", "duplicate")]
        missing = number_cell(max(found.target - accepted, 0))
        rows.append([row_name(label), *numbers, bar_cell(accepted / found.target), missing])
    header = ("class", "#images", "#candidates", "#accepted", "#rejected", "#copies", f"of {found.target} accepted")
    ratio = imbalance_ratio(counts)
    basis = "accepted images" if counted(counts) == "accepted" else "candidates, as none is accepted yet"
    text = f"Imbalance ratio {ratio:.3g}: the largest class over the smallest, by {basis}."
    if ratio == float("inf"):
        text = f"A class is empty, so that there is no imbalance ratio yet (counted: {basis})."
    tables = side_by_side(table_of((*header, "#missing"), rows, "Images by class and status"), _rejections(found))
    return section("counts", "Counts", tables + paragraph(Said(text)))


def _rejections(found: Findings) -> str:
    if "reason" not in found.table or not found.table["status"].eq("rejected").any():
        return ""
    table = rejections(found.table)
    rows = [
        [row_name(reason), number_cell(sum(row)), *map(number_cell, row)]
        for reason, row in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    more = f" (the {REASONS_SHOWN} most frequent of {len(rows)} reasons)" if len(rows) > REASONS_SHOWN else ""
    header = ("reason", "#all", *(f"#{label}" for label in table))
    return table_of(header, rows[:REASONS_SHOWN], f"Rejected for{more}")


# --- flags ---


def _flags(found: Findings, album: Album) -> str:
    if not found.flags:
        return section("flags", "Flags and heatmaps", "<p>No image raises a flag.</p>" + _energy(found, album))
    rows = [
        [
            f"<th scope='row'><a href='#flag-{number}'>{safe(flag.name)}</a></th>",
            f"<td>{safe(flag.artifact.replace('_', ' '))}</td>",
            f"<td><code>{safe(f'{flag.measure} {flag.limit}'.strip())}</code></td>",
            number_cell(len(flag.images)),
            *(number_cell(flag.by_class.get(label, 0)) for label in found.labels),
        ]
        for number, flag in enumerate(found.flags, 1)
    ]
    header = ("flag", "artifact", "measure and limit", "#all", *(f"#{label}" for label in found.labels))
    text = (
        "A flag is a measure of the picture beyond its limit. It is a reason to look, not a verdict: limits are set so "
        "that few clear keepers lie beyond. Right of each picture lies its heatmap over it (Grad-CAM of its class by a "
        "model that has not seen it):"
    )
    scale = "<p>no evidence <span class='scale' role='img' aria-label='from violet to yellow'></span> most evidence</p>"
    body = (
        paragraph(Said(text))
        + scale
        + side_by_side(table_of(header, rows, f"Flagged images by class ({found.counted})"))
    )
    return section("flags", "Flags and heatmaps", body + _energy(found, album) + _worst(found, album))


def _energy(found: Findings, album: Album) -> str:
    if found.energy.empty:
        text = "There are no heatmaps: the audit was quick. `curate audit` without --quick makes them."
        return f"<h3>What the model looks at</h3>{sentence_with_commands(text)}"
    rows = [
        [
            row_name(label),
            number_cell(row["images"]),
            *(f"<td class='n'>{percent(row[name])}</td>" for name in ("background_share", "energy")),
            f"<td class='n'>{row['energy'] / row['background_share']:.2f}</td>",
            number_cell(row["mostly_background"]),
        ]
        for label, row in found.energy.iterrows()
    ]
    header = (
        "class",
        "#images",
        "#background, of the picture",
        "#background, of the heatmap",
        "#ratio",
        "#mostly background",
    )
    text = (
        "Medians. A ratio of 1 means that the background gets as much of the heatmap as of the picture; a model that "
        "looks at the specimen has less. Where most of the heatmap lies on the background, the model is misled."
    )
    table = table_of(header, rows, "Energy of the heatmaps on the background, by class")
    energies = found.rows.set_index("image_id")["cam_background_energy"]
    cards = [
        _card(found, album, image, f"{percent(energies[image])} of the heatmap on the background")
        for image in found.distracted
    ]
    worst = f"<div class='block'><h3>Heatmaps that lie on the background</h3>{_some(cards)}</div>" if cards else ""
    return f"<h3>What the model looks at</h3>{paragraph(Said(text))}{side_by_side(table)}{worst}"


def _worst(found: Findings, album: Album) -> str:
    parts = []
    for number, flag in enumerate(found.flags, 1):
        images = list(flag.images.items())
        notes = [f"{flag.measure} {value} ({flag.limit})" if flag.measure else value for _, value in images[:WORST]]
        cards = [_card(found, album, image, note) for (image, _), note in zip(images, notes, strict=False)]
        shown = f", the {WORST} worst" if len(images) > WORST else ""
        condition = f" <code>{safe(f'{flag.measure} {flag.limit}')}</code>" if flag.measure else ""
        parts.append(
            f"<div class='block' id='flag-{number}'><h3>{safe(flag.name)}{condition} "
            f"<span class='quiet'>{so_many_images(len(images))}{shown}</span></h3><p>{safe(flag.meaning)}</p>"
            f"{_some(cards)}</div>"
        )
    return "".join(parts)


# --- shortcuts ---


def _shortcuts(found: Findings, album: Album) -> str:
    made = command(found, "curate", "shortcuts", found.manifest)
    if found.shortcuts is None:
        text = f"Nobody has looked for shortcuts yet: there is no {shortcuts_path(found.manifest).name}. This makes it:"
        return section("shortcuts", "Shortcuts", f"<p>{safe(text)}</p><p><code>{html.escape(made)}</code></p>")
    text = (
        "A shortcut is an artifact that tells a class from the others: a model that learns it looks right and has "
        "learned nothing of the class. Classes, measures and limits were searched together, and p is adjusted for that."
    )
    old = f"<p class='bad'>The manifest has changed since; look again: <code>{html.escape(made)}</code></p>"
    body = paragraph(Said(text)) + (old if found.stale else "") + paragraph(searched(found.shortcuts))
    body += _findings(found.shortcuts)
    body += _compared(found) + side_by_side(_told_from(found.shortcuts), _masked(found.shortcuts))
    if found.shortcuts.masked is None:
        text = "How well the model does on the background alone, and on the foreground alone, was not tried:"
        body += f"<p>{text} <code>{html.escape(made)} --masked</code></p>"
    return section("shortcuts", "Shortcuts", body + "".join(_carried(found, f, album) for f in _pictured(found)))


def _findings(shortcuts: Shortcuts) -> str:
    if not shortcuts.findings:
        return "<p class='good'>No artifact gives a class away.</p>"
    rows = [
        [
            row_name(f.label),
            f"<td>{safe(f.kind)}</td>",
            f"<td><code>{safe(f.question())}</code></td>",
            f"<td class='n'>{with_interval(f.auroc, f.auroc_interval, share=False)}</td>",
            f"<td class='n'>{f.p:.2g}</td>",
            f"<td class='n'>{len(f.image_ids):,} ({percent(f.share)})</td>",
            f"<td class='n'>{percent(f.share_elsewhere)}</td>",
            f"<td>{safe(', '.join(f.also))}</td>",
            f"<td>{safe(f.explained_by)}</td>",
        ]
        for f in shortcuts.findings
    ]
    header = ("class", "artifact", "measure, direction, limit", "#AUROC (95 %)", "#p adjusted", "#images of the class")
    table = table_of(
        (*header, "#of the others", "also", "goes with"), rows, "Artifacts that give a class away, the surest first"
    )
    return side_by_side(table)


def _told_from(shortcuts: Shortcuts) -> str:
    rows = [
        [
            row_name(a.measure if a.kind else "all measures together"),
            f"<td class='n'>{with_interval(a.balanced_accuracy, a.interval)}</td>",
            f"<td class='n'>{a.p:.2g}</td>",
            f"<td>{safe(a.best[0])} ({percent(a.best[1])})</td>",
        ]
        for a in (shortcuts.joint, *shortcuts.accuracies[:MEASURES_SHOWN])
    ]
    header = ("told from", "#balanced accuracy (95 %)", "#p adjusted", "best class (recall)")
    return table_of(header, rows, f"How well the label is told from artifacts; chance {percent(shortcuts.chance)}")


def _masked(shortcuts: Shortcuts) -> str:
    if shortcuts.masked is None:
        return ""
    rows = []
    for part, (fitted, judged_on) in PARTS.items():
        judged = shortcuts.masked.get(part) or {}
        if recall := judged.get("recall"):
            best = max(recall, key=recall.__getitem__)
            accuracy = with_interval(judged["balanced_accuracy"], judged["interval"])
            cells = [f"<td>{fitted}</td>", number_cell(judged["images"]), f"<td class='n'>{accuracy}</td>"]
            rows.append([row_name(judged_on), *cells, f"<td>{safe(best)} ({percent(recall[best])})</td>"])
    chance = percent(shortcuts.masked["chance"])
    header = ("judged on", "fitted on", "#images", "#balanced accuracy (95 %)", "best class (recall)")
    return table_of(header, rows, f"The model with part of the picture masked; chance {chance}")


def _compared(found: Findings) -> str:
    if found.before is None or found.shortcuts is None:
        return ""
    before, after = found.before, found.shortcuts
    rows = []
    for label, kind, *pair, fate in compare(before, after):
        cells = [f"<td>{safe(f'{f.question()}, {percent(f.share)} of the class') if f else '-'}</td>" for f in pair]
        mark = {"gone": "good", "new": "bad"}.get(fate, "")
        rows.append([row_name(label), f"<td>{safe(kind)}</td>", *cells, f"<td class='{mark}'>{FATES[fate]}</td>"])
    joint = [
        f"<td>{with_interval(s.joint.balanced_accuracy, s.joint.interval)}, chance {percent(s.chance)}</td>"
        for s in (before, after)
    ]
    rows.append([row_name("all"), "<td>told from all measures</td>", *joint, "<td></td>"])
    masked = [s.masked["background"] if s.masked else None for s in (before, after)]
    if any(masked):
        cells = [
            f"<td>{with_interval(m['balanced_accuracy'], m['interval']) if m and m['recall'] else 'not tried'}</td>"
            for m in masked
        ]
        rows.append([row_name("all"), "<td>told by the model from the background alone</td>", *cells, "<td></td>"])
    return side_by_side(table_of(("class", "artifact", "before", "after", "now"), rows, "Before and after curation"))


def _carried(found: Findings, finding: Finding, album: Album) -> str:
    carry, others = carriers(found.rows, finding)
    value = found.rows.set_index("image_id").get(finding.measure, pd.Series(dtype=object))
    sides = []
    for images, title in ((carry[:BESIDE], "that carry it"), (others[:BESIDE], "that do not")):
        cards = [_card(found, album, image, f"{finding.measure} {short(value.get(image))}") for image in images]
        grid = f"<ul class='images'>{''.join(cards)}</ul>" if cards else "<p>None.</p>"
        sides.append(f"<div><h4>Images of {safe(finding.label)} {title}</h4>{grid}</div>")
    share = f"{percent(finding.share)} of the class, {percent(finding.share_elsewhere)} of the others"
    return (
        f"<div class='block'><h3>{safe(finding.label)} <code>{safe(finding.question())}</code> "
        f"<span class='quiet'>AUROC {finding.auroc:.2f}; {share}</span></h3>"
        f"<div class='split'>{''.join(sides)}</div></div>"
    )


# --- confusion, screen, steps ---


def _confusion(found: Findings, album: Album) -> str:
    seen = found.confusion
    if seen is None:
        text = "There are no predictions: they need two classes of at least five images that open, and `curate audit`."
        return section("confusion", "Confusion", sentence_with_commands(text))
    text = (
        f"Each image's class, predicted by a model that was fitted on the others (five folds). Accuracy "
        f"{percent(seen.accuracy)}, chance {percent(1 / len(seen.matrix))}; macro-F1 {percent(seen.macro_f1)}. A "
        "class of low recall is hard to learn, or its labels are wrong."
    )
    body = paragraph(Said(text)) + side_by_side(_matrix(seen.matrix), _learnability(seen))
    if found.doubtful:
        cards = [_contradicted(found, album, image) for image in found.doubtful[:WORST]]
        shown = f" ({WORST} of {len(found.doubtful):,})" if len(found.doubtful) > WORST else ""
        note, kind = "The least probable labels first.", "images"
        if any(not album[image].predicted.cause for image in found.doubtful[:WORST]):
            note += " Middle: evidence for the label; right: evidence for the class that was predicted."
            kind = "images triples"
        grid = _some(cards, kind)
        body += (
            f"<div class='block'><h3>Labels that the model contradicts{shown}</h3>{paragraph(Said(note))}{grid}</div>"
        )
    return section("confusion", "Confusion", body)


def _matrix(matrix: pd.DataFrame) -> str:
    rows = []
    for label, row in matrix.iterrows():
        total = max(int(row.sum()), 1)
        cells = [
            f"<td style='background: color-mix(in srgb, var(--{'hit' if label == other else 'miss'}) "
            f"{100 * n / total:.0f}%, var(--card))'>{n}</td>"
            for other, n in row.items()
        ]
        rows.append([row_name(label), *cells])
    header = ("label", *(f"#{name}" for name in matrix.columns))
    return table_of(header, rows, "Confusion matrix, images: rows the label, columns the predicted class", "matrix")


def _learnability(seen: Confusion) -> str:
    rows = [
        [
            row_name(label),
            number_cell(row["images"]),
            *(f"<td class='n'>{percent(row[name])}</td>" for name in ("recall", "precision", "f1")),
            f"<td>{safe(row['confused_with'])}</td>",
        ]
        for label, row in seen.by_class.iterrows()
    ]
    return table_of(
        ("class", "#images", "#recall", "#precision", "#F1", "mostly taken for"), rows, "How learnable each class is"
    )


def _contradicted(found: Findings, album: Album, image: str) -> str:
    row = _row(found, image)
    note = f"taken for {row['predicted']}; its label is {percent(row['label_probability'])} probable"
    return _card(found, album, image, note, str(row["predicted"]))


def _screen(found: Findings) -> str:
    seen = found.screen
    if seen is None:
        waiting = len(undecided(found.table)) > 0
        why = "It learns from decisions, and there were none when the manifest was audited."
        text = why if waiting else "Every image is decided."
        return section("screen", "What the screen thinks", paragraph(Said(text)))
    most = max(int(seen.bins.max()), 1)
    rows = [
        [row_name(f"{n / BINS:.1f} to {(n + 1) / BINS:.1f}"), number_cell(count), bar_cell(count / most)]
        for n, count in enumerate(seen.bins)
    ]
    text = (
        f"What the decisions so far say of the {int(seen.bins.sum()):,} images that nobody has judged: it would keep "
        f"{seen.keeps:,} and reject {seen.rejects:,} with at most {percent(SURE)} doubt, and is not sure of "
        f"{seen.unsure:,}."
    )
    table = table_of(("probability of rejection", "#images", ""), rows, "Undecided images by probability of rejection")
    return section("screen", "What the screen thinks", paragraph(Said(text)) + side_by_side(table))


def _steps(steps: Sequence[Step]) -> str:
    items = "".join(f"<li>{paragraph(step.what)}<code>{html.escape(step.command)}</code></li>" for step in steps)
    return section("next", "What to do next", f"<ol class='steps'>{items}</ol>")


# --- pictures with what is said of them ---


def _card(found: Findings, album: Album, image: str, note: str, predicted: str | None = None) -> str:
    """The picture, the heatmap of its label over it, that of the predicted class if asked for, and what is said."""
    label, pictures = str(_row(found, image)["label"]), album[image]
    tags = [album.tag(pictures.plain, f"{label}, image {image}")]
    if not pictures.plain.cause:
        tags.append(album.tag(pictures.label, f"the same under its heatmap for {label}"))
        if predicted is not None and not pictures.predicted.cause:
            tags.append(album.tag(pictures.predicted, f"the same under its heatmap for {predicted}"))
    boxes = "".join(f"<div class='photo'>{tag}</div>" for tag in tags)
    return (
        f"<li><figure><div class='row'>{boxes}</div><figcaption><b>{safe(label)}</b> <code>{safe(image)}</code><br>"
        f"{safe(note)}</figcaption></figure></li>"
    )


def _some(cards: list[str], kind: str = "images") -> str:
    """Cards, the first ones open."""
    shown, folded = cards[:OPEN], cards[OPEN:]
    more = f"<details><summary>{len(folded)} more</summary><ul class='{kind}'>{''.join(folded)}</ul></details>"
    return f"<ul class='{kind}'>{''.join(shown)}</ul>{more if folded else ''}"


def _row(found: Findings, image: str) -> pd.Series:
    return found.rows.loc[found.rows["image_id"] == image].iloc[0]
