"""The page that counts: how far each class is, how even they are, what is learnt of each, where its images come from.

What is counted is kept until another decision is made; then 100,000 rows with 50,000 decisions take 1.3 seconds of a
core, and the plan 0.8. To see whether one was made takes 10 ms.
"""

import shlex
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd
import sqlalchemy as sa
import streamlit as st

from apps.contribute import same_data
from apps.desk import Desk, current_desk
from curate.balance import ClassPlan
from curate.confusion import confusion, learnability
from curate.decide import apply_decisions
from curate.errors import CurateError
from curate.manifest import class_weights
from curate.queue import progress
from curate.recipe import Recipe
from curate.schema import decisions

SHOWN = {"accepted": "#3f8f5f", "rejected": "#b4574d", "waiting": "#9aa1a8"}
ORIGINS = {"source": "Sources", "license": "Licences"}
NAMES = {"class": st.column_config.TextColumn(width="medium")}  # a long name hides no number
PLAN_LASTS = 30  # seconds that a plan is shown before it is made anew: a scrape may go on elsewhere


class Counted(NamedTuple):
    """What the page says of the images, by the decisions so far; index `label` but for `origins`.

    Attributes:
        progress: of `curate.queue.progress`, classes of the recipe without an image too.
        came: images of each class before any decision.
        learnt: of `learnability`, over what is neither rejected nor a copy; None without an audit.
        origins: column -> `class`, its value, `images`, `accepted`, `share`; None without that column.
    """

    progress: pd.DataFrame
    came: pd.Series
    learnt: pd.DataFrame | None
    origins: dict[str, pd.DataFrame | None]


def page() -> None:
    """Counts, evenness, what is learnt, origins, and what a balance would fetch."""
    desk = current_desk()
    made = decisions_made(desk)
    counted = _counted(desk, made)
    st.subheader("Classes")
    _show_progress(desk, counted.progress)
    st.markdown("#### Balance of the classes")
    _show_evenness(counted)
    st.markdown("#### What is learnt of each class")
    _show_learnt(desk, counted.learnt)
    for column, title in ORIGINS.items():
        st.markdown(f"#### {title}")
        _show_origins(column, counted.origins[column])
    st.markdown("#### What balance would fetch")
    _show_plan(desk, made)


def decisions_made(desk: Desk) -> int:
    """How many decisions the ledger holds: they are only ever appended, so that a new one changes it."""
    with desk.ledger.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(decisions)).scalar_one()


@st.cache_data(max_entries=2, show_spinner="Counting", hash_funcs={Desk: id})
def _counted(desk: Desk, made: int) -> Counted:
    return count(desk.manifest, desk.ledger.standing(), desk.target, desk.recipe.labels if desk.recipe else [])


def count(manifest: pd.DataFrame, standing: pd.DataFrame, target: int, wanted: Iterable[str] = ()) -> Counted:
    """All that the page counts.

    Args:
        manifest: with `image_id`, `label`, `status`; `predicted` after an audit; `source` and `license` of a scrape.
        standing: `Ledger.standing()`: the decisions in force.
        target: accepted images wanted of each class.
        wanted: classes to list though they may have no image.
    """
    far = progress(manifest, standing, target)
    labels = pd.Index(sorted({*far.index, *wanted}), name="label")
    far = far.reindex(labels, fill_value=0).assign(target=target)
    came = manifest["label"].value_counts().reindex(labels, fill_value=0)
    decided = apply_decisions(manifest, standing)
    learnt = None
    if "predicted" in decided and decided["predicted"].notna().any():
        learnt = learnability(confusion(decided[~decided["status"].isin(["rejected", "duplicate"])]))
    return Counted(far, came, learnt, {column: origins(decided, column) for column in ORIGINS})


def origins(decided: pd.DataFrame, column: str) -> pd.DataFrame | None:
    """Images held and accepted by class and source (or another column), the most first in each class.

    Args:
        decided: the manifest with the decisions applied.
        column: missing values count as "unknown".

    Returns:
        `class`, the column, `images`, `accepted`, `share`; None where there is no such column.
    """
    if column not in decided:
        return None
    keys = [decided["label"].rename("class"), decided[column].fillna("unknown")]
    counts = decided["status"].eq("accepted").groupby(keys).agg(["size", "sum"]).reset_index()
    counts = counts.rename(columns={"size": "images", "sum": "accepted"})
    counts = counts.assign(share=counts["accepted"] / counts["images"])
    return counts.sort_values(["class", "images"], ascending=[True, False], kind="stable", ignore_index=True)


def imbalance(counts: pd.Series) -> str:
    """The ratio of the largest class to the smallest, in words."""
    if not counts.any():
        return "no image yet"
    empty = counts.index[counts == 0]
    return f"{counts.max() / counts.min():.2f}" if empty.empty else f"none: no image of {', '.join(empty)}"


def _show_progress(desk: Desk, far: pd.DataFrame) -> None:
    full = int((far["accepted"] >= desk.target).sum())
    st.text(f"{desk.name}: {full} of {len(far)} classes have the {desk.target} accepted images they need.")
    st.bar_chart(
        far[list(SHOWN)],
        color=list(SHOWN.values()),
        horizontal=True,
        x_label="",
        y_label="images",
        alt="Accepted, rejected and waiting images of each class; the table below has the numbers",
    )
    missing = (far["target"] - far["accepted"]).clip(lower=0)
    _table(far.assign(missing=missing).rename_axis("class").reset_index(), "Images of each class towards the target")


def _show_evenness(counted: Counted) -> None:
    came, now = counted.came, counted.progress["accepted"]
    st.text(
        f"Largest class over smallest: as they came {imbalance(came)}, accepted now {imbalance(now)}. "
        "Training weighs each class by the largest one's images over its own."
    )
    table = {
        "class": came.index,
        "as they came": came.to_numpy(),
        "weight then": class_weights(came).reindex(came.index).to_numpy(),
        "accepted now": now.to_numpy(),
        "weight now": class_weights(now).reindex(came.index).to_numpy(),
    }
    _table(pd.DataFrame(table).round(2), "Images and class weights before curation and now")


def _show_learnt(desk: Desk, learnt: pd.DataFrame | None) -> None:
    if learnt is None:
        st.text("No model has judged these images yet. This measures them and predicts each from the others:")
        unique = desk.path.with_name("unique.csv")
        st.code(shlex.join(["curate", "audit", str(unique), *same_data(desk)]), language=None)
        return
    st.text(
        "By a model that had not seen the image, over all that is neither rejected nor a copy; the class that is told "
        "worst comes first. The interval of the recall is one of 95 %."
    )
    table = learnt.reset_index(names="class").rename(columns={"recall_low": "from", "recall_high": "to"})
    table["confused with"] = [
        f"{other} ({number})" if number else "" for other, number in table[["taken_for", "taken"]].to_numpy()
    ]
    _table(table.drop(columns=["taken_for", "taken"]).round(2), "Recall and precision of each class")


def _show_origins(column: str, found: pd.DataFrame | None) -> None:
    if found is None:
        st.text(f"The manifest has no column {column}: `curate scrape` and `curate add` write it.")
        return
    st.dataframe(
        found,
        hide_index=True,
        height="content",
        column_config={
            **NAMES,
            column: st.column_config.TextColumn(width="medium"),
            "share": st.column_config.ProgressColumn("share accepted", format="percent", max_value=1.0),
        },
        alt=f"Images of each class by {column}",
    )


def _show_plan(desk: Desk, made: int) -> None:
    words = ["curate", "balance", str(desk.path), "--per-class", str(desk.target), *same_data(desk)]
    command = shlex.join(words)
    if desk.recipe is None:
        st.text("Only a recipe says where to search, and this page was started without one. Start it so:")
        st.code(f"curate review {shlex.quote(str(desk.path))} --recipe manifests/igneous.toml", language=None)
        return
    if "suspicion" not in desk.manifest:
        st.text("A plan needs the audit's opinion of the images that nobody judged yet: `curate audit` gives it.")
        return
    try:
        plans = _planned(desk, made)
    except CurateError as error:
        st.text(str(error))
        return
    st.text(
        "By the decisions so far. Nothing is fetched here; the first command looks for copies, judges the images anew "
        "and shows the plan, the second fetches."
    )
    st.code(f"{command} --dry-run\n{command}", language=None)
    _table(pd.DataFrame(map(plan_row, plans)), "What balance would fetch of each class")


@st.cache_data(max_entries=2, ttl=PLAN_LASTS, show_spinner="Planning", hash_funcs={Desk: id})
def _planned(desk: Desk, made: int) -> list[ClassPlan]:
    return planned(desk, desk.recipe) if desk.recipe else []


def planned(desk: Desk, recipe: Recipe) -> list[ClassPlan]:
    """What `curate balance` would do for each class of the recipe; asks no source and writes nothing.

    Raises:
        CurateError: nothing is accepted yet, or the manifest holds a class that the recipe does not know.
    """
    from curate.wiring import plan_round, refuse_unknown_labels  # which loads all that an audit needs

    refuse_unknown_labels(desk.manifest, recipe, desk.path)
    standing = desk.ledger.standing()
    if standing.empty:
        raise CurateError(
            "Nobody has decided anything yet. What is to be fetched is known once some images are judged."
        )
    table = apply_decisions(desk.manifest, standing)
    return plan_round(table, recipe, desk.ledger, target=desk.target, unattended=False)


def plan_row(of: ClassPlan) -> dict[str, object]:
    """A class's plan with the words of `curate balance --dry-run`."""
    found = of.next_search
    after = f"{found.source} {found.query!r} from rank {found.next_rank}" if found else "no search has more"
    return {
        "class": of.label,
        "accepted": of.accepted,
        "target": of.target,
        "missing": of.missing,
        "undecided": f"{of.undecided} (likely {of.expected:.0f})",
        "yield": round(of.observed_yield, 2),
        "to fetch": of.ask,
        "to trim": of.trimmed,
        "from": (f"{of.pending} offered already, then {after}" if of.pending else after) if of.ask else "-",
    }


def _table(table: pd.DataFrame, alt: str) -> None:
    st.dataframe(table, hide_index=True, height="content", column_config=NAMES, alt=alt)
