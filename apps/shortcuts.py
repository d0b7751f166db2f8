"""The page of shortcuts: artifacts that tell a class from the others, and the images that carry them."""

import html
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from apps.desk import Desk, current_desk
from curate.errors import CurateError
from curate.findings import BEFORE, PARTS, carriers, independent, shortcuts_path
from curate.next_steps import searched
from curate.page_pieces import percent, safe, with_interval
from curate.shortcuts_found import Accuracy, Finding, Shortcuts, compare, counted_rows, read_shortcuts

SHOWN = 8  # shortcuts with their images
BESIDE = 6  # images that carry one, and as many that do not
FATES = {"gone": "gone", "left": "still there", "new": "new"}  # of `compare`, in words
MEASURES = 8  # of those that the label is told from
LOOK = """<style>
.stElementContainer:has(> .stHtml .carriers) { display: block; }
.carriers h3 { font-size: 1.0625rem; margin: 0; padding: 0; }
.carriers h4 { font-size: .875rem; margin: 0; padding: .25rem 0 .5rem; }
.carriers .sides { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); }
.carriers ul { display: flex; flex-wrap: wrap; gap: .75rem 1rem; list-style: none; margin: 0; padding: 0; }
.carriers li { width: 264px; margin: 0; font-size: .8125rem; overflow-wrap: anywhere; }
.carriers .pair { display: flex; gap: 4px; }
.carriers .pair > span { display: flex; width: 130px; height: 130px; align-items: center; justify-content: center; }
.carriers .over { position: relative; display: inline-flex; }
.carriers .over img + img { position: absolute; inset: 0; width: 100%; height: 100%; }
.carriers .pair img { max-width: 130px; max-height: 130px; border-radius: .25rem; }
</style>"""


def page() -> None:
    """What `curate shortcuts` found in the manifest under review, before curation and now."""
    desk = current_desk()
    path, before = shortcuts_path(desk.path), desk.path.with_name(BEFORE)
    st.subheader("Shortcuts")
    if not path.exists():
        st.text(f"Nobody has looked for shortcuts in {desk.name} yet. This does, and comes back here:")
        st.code(f"curate shortcuts {desk.path}", language=None)
        return
    try:
        found, earlier = read_shortcuts(path), read_shortcuts(before) if before != path and before.exists() else None
    except CurateError as error:
        st.text(str(error))
        return
    st.html(LOOK)
    if path.stat().st_mtime < desk.path.stat().st_mtime:
        st.text("The manifest has changed since. Look again with the command `curate shortcuts`.")
    st.text(_in_words(found))
    if found.findings:
        st.dataframe(_findings(found), hide_index=True, height="content")
    if earlier:
        st.text("Before and after curation")
        st.dataframe(_compared(earlier, found), hide_index=True, height="content")
    st.text("How well the label is told from artifacts, and by the model from a part of the picture")
    st.dataframe(_told_from(found), hide_index=True, height="content")
    rows = counted_rows(desk.manifest)[0]
    for finding in independent(found)[:SHOWN]:
        st.html(_carried(desk, rows, finding))


def _in_words(found: Shortcuts) -> str:
    labels = {finding.label for finding in found.findings}
    told, said = with_interval(found.joint.balanced_accuracy, found.joint.interval), searched(found)
    return (
        f"{len(labels)} of {len(found.images)} classes have a shortcut. From all artifacts together the class is told "
        f"with a balanced accuracy of {told}; chance is {percent(found.chance)}. {said.text.format(*said.names)}"
    )


def _findings(found: Shortcuts) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "class": f.label,
            "artifact": f.kind,
            "measure": f.question(),
            "AUROC (95 %)": f"{f.auroc:.2f} ({f.auroc_interval[0]:.2f} to {f.auroc_interval[1]:.2f})",
            "p adjusted": f"{f.p:.2g}",
            "images": len(f.image_ids),
            "of the class": percent(f.share),
            "of the others": percent(f.share_elsewhere),
            "goes with": f.explained_by,
        }
        for f in found.findings
    )


def _compared(before: Shortcuts, after: Shortcuts) -> pd.DataFrame:
    rows = [
        (
            label,
            kind,
            *(f"{f.question()}, {percent(f.share)} of the class" if f else "-" for f in (old, new)),
            FATES[fate],
        )
        for label, kind, old, new, fate in compare(before, after)
    ]
    joint = (with_interval(s.joint.balanced_accuracy, s.joint.interval) for s in (before, after))
    rows.append(("all", "told from all artifacts", *joint, ""))
    return pd.DataFrame(rows, columns=["class", "artifact", "before", "after", "now"])


def _told_from(found: Shortcuts) -> pd.DataFrame:
    def row(accuracy: Accuracy) -> tuple[str, str, str]:
        name = accuracy.measure if accuracy.kind else "all artifacts together"
        return (
            name,
            with_interval(accuracy.balanced_accuracy, accuracy.interval),
            f"{accuracy.best[0]} ({percent(accuracy.best[1])})",
        )

    rows = [row(accuracy) for accuracy in (found.joint, *found.accuracies[:MEASURES])]
    for part, (fitted, judged_on) in PARTS.items():
        judged = (found.masked or {}).get(part) or {}
        if recall := judged.get("recall"):
            best = max(recall, key=recall.__getitem__)
            told = with_interval(judged["balanced_accuracy"], judged["interval"])
            rows.append((f"{judged_on}, by a model of {fitted}", told, f"{best} ({percent(recall[best])})"))
    return pd.DataFrame(rows, columns=["told from", "balanced accuracy (95 %)", "best class (recall)"])


def _carried(desk: Desk, rows: pd.DataFrame, finding: Finding) -> str:
    """A shortcut with images that carry it beside others of its class."""
    carry, others = carriers(rows, finding)
    title = f"{finding.label}: {finding.question()}"
    sides = ((carry, "that carry it"), (others, "that do not"))
    parts = "".join(
        f"<div><h4>{safe(f'Images of {finding.label} {words}')}</h4>{_images(desk, images[:BESIDE])}</div>"
        for images, words in sides
    )
    return f"<section class='carriers'><h3>{safe(title)}</h3><div class='sides'>{parts}</div></section>"


def _images(desk: Desk, images: Sequence[str]) -> str:
    """Each image beside its heatmap; the addresses are those of `pictures.picture_routes`."""
    cards = []
    for image in images:
        item = desk.items.of(image)
        name = html.escape(f"{item['label']}, image {image}", quote=True)
        thumb, over = html.escape(item["thumb"], quote=True), "no heatmap"
        if item["heat"]:
            heat = f"<img src='{html.escape(item['heat'], quote=True)}' alt='{name}, under its heatmap'>"
            over = f"<span class='over'><img src='{thumb}' alt=''>{heat}</span>"
        plain = f"<span><img src='{thumb}' alt='{name}'></span>"
        cards.append(f"<li><div class='pair'>{plain}<span>{over}</span></div>{safe(image)}</li>")
    return f"<ul>{''.join(cards)}</ul>" if cards else "<p>None.</p>"
