"""The page that takes in images which people drop: they go the way of `curate add`, through its checks and its lock."""

import re
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import pandas as pd
import sqlalchemy as sa
import streamlit as st

from apps.desk import Desk, current_desk
from apps.who import login_name
from curate.archive import one_line
from curate.collected import write_collected
from curate.contribute import Progress, add
from curate.errors import CurateError
from curate.ledger import Ledger, ledger_url
from curate.licenses import identify, permits
from curate.recipe import Recipe

LARGEST = 200  # MB of one file that is dropped; what is larger goes by `curate add`, which reads it from the disk
MOST = 500  # files at a time
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
LICENSES = (  # the usual ones by their SPDX ids; any other can be typed
    *("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"),
    "Public domain",
)
STATES = ("taken", "repeated", "refused", "failed")
NOBODY = "local"  # what `curate review` calls a reviewer who gave no name: nobody to credit
LONGEST = 60  # characters of a name on the disk, and twice as many of a title
MB = 1_000_000
_SHOWN, _ROUND = "contribution_taken", "contribution_round"


class Upload(Protocol):
    """A file that the browser sent: its name is untrusted text."""

    name: str
    size: int

    def getvalue(self) -> bytes:
        """Its bytes."""


class Given(NamedTuple):
    """What was filled in: files, the class they belong to, whom to credit, under which licence."""

    uploads: Sequence[Upload]
    label: str | None
    contributor: str
    license: str | None


class Taken(NamedTuple):
    """What became of the files, one row each (`file`, `state`, `cause`), and the manifest that holds the taken ones."""

    files: pd.DataFrame
    label: str
    license: str
    manifest: Path | None


def page() -> None:
    """A form for files, class, name and licence; under it what became of the last ones."""
    desk = current_desk()
    st.subheader("Contribute")
    if desk.recipe is None:
        st.text("Images are taken in for the classes of a recipe, and this page was started without one. Start it so:")
        st.code(f"curate review {shlex.quote(str(desk.path))} --recipe manifests/igneous.toml", language=None)
        return
    given = _form(desk.recipe)
    if given and (missing := lacking(given)):
        st.text(missing)
    elif given:
        try:
            st.session_state[_SHOWN] = _taken(desk, desk.recipe, given)
        except (CurateError, OSError, sa.exc.SQLAlchemyError) as error:
            st.text(f"{error}")
            return
        st.session_state[_ROUND] = st.session_state.get(_ROUND, 0) + 1  # an empty uploader: the files are let go
        st.rerun()
    if taken := st.session_state.get(_SHOWN):
        _show(desk, desk.recipe, taken)


def _form(recipe: Recipe) -> Given | None:
    """What was filled in, once it is sent."""
    with st.form("contribution"):
        uploads = st.file_uploader(
            f"Images, or a zip of them: {MOST} files at a time, {LARGEST} MB each",
            type=[*IMAGES, "zip"],
            accept_multiple_files=True,
            max_upload_size=LARGEST,
            key=f"contributed_files_{st.session_state.get(_ROUND, 0)}",
        )
        st.text(
            f"Of an image at most {recipe.web.max_bytes / MB:.0f} MB and at least {recipe.min_side} pixels a side. "
            "Larger zips and folders: curate add."
        )
        label = st.selectbox("Class of all of them", recipe.labels, index=None, placeholder="Choose a class")
        name = login_name() or current_desk().reviewer
        contributor = st.text_input("Name to credit", "" if name == NOBODY else name, max_chars=200)
        license = st.selectbox(
            "Licence they are given under",
            LICENSES,
            index=None,
            placeholder="Choose one, or type another",
            accept_new_options=True,
        )
        sent = st.form_submit_button("Contribute")
    return Given(uploads, label, contributor, license) if sent else None


def lacking(given: Given) -> str:
    """What is not filled in yet, in words; empty where nothing is missing."""
    if not given.uploads:
        return "No file is chosen: drop images or a zip first."
    if len(given.uploads) > MOST:
        return f"{len(given.uploads)} files: at most {MOST} at a time. A zip, or `curate add FOLDER`, takes more."
    lacks = [
        what
        for what, filled in (
            ("the class", given.label),
            ("a name to credit", one_line(given.contributor)),
            ("the licence", one_line(given.license or "")),
        )
        if not filled
    ]
    return f"Nothing is taken yet: {' and '.join(lacks)} must be said." if lacks else ""


def _taken(desk: Desk, recipe: Recipe, given: Given) -> Taken:
    label, license = str(given.label), str(given.license)
    bar = st.progress(0.0)

    def progress(_: str, done: int, total: int) -> None:
        bar.progress(done / max(total, 1), text=f"{done} of {total} files")

    said = {"label": label, "contributor": given.contributor, "license": license}
    files = take_in(given.uploads, recipe, **said, root=desk.root, ledger=desk.ledger, progress=progress)
    out = manifest_beside(desk.path)
    held = write_collected(desk.ledger, recipe.labels, recipe.license, out)
    return Taken(files, label, license, out if held else None)


def take_in(
    uploads: Sequence[Upload],
    recipe: Recipe,
    *,
    label: str,
    contributor: str,
    license: str,
    root: Path,
    ledger: Ledger,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """`curate.contribute.add` for files of a browser: images together, then each zip; a zip that is refused is a row.

    They are written to a temporary folder, under names of our own, which is gone afterwards. Images lie in one zip, not
    in a folder: there any name can stand as it is, and becomes the title.

    Returns:
        As `add`: `file` (as the browser named it; of a zip with the name inside), `state`, `cause`.

    Raises:
        CurateError: as `add`, of what is not the fault of one zip. OSError: the temporary folder cannot be written.
    """
    said: dict[str, Any] = {"label": label, "contributor": contributor, "license": license}
    said |= {"root": root, "ledger": ledger, "progress": progress}
    small = [upload for upload in uploads if upload.size <= LARGEST * MB]
    zips = [upload for upload in small if upload.name.lower().endswith(".zip")]
    images = [upload for upload in small if upload not in zips]
    too_large = f"larger than {LARGEST} MB: `curate add` takes it from the disk"
    rows = [(one_line(upload.name), "refused", too_large) for upload in uploads if upload not in small]
    with TemporaryDirectory(prefix="deeprock-") as folder:
        if images:
            path = Path(folder) / "uploaded"
            with zipfile.ZipFile(path, "w") as archive:
                for number, upload in enumerate(images):
                    archive.writestr(f"{number}/{plain_name(upload.name)}", upload.getvalue())
            for file, state, cause in add(path, recipe, **said).itertuples(index=False):
                rows.append((one_line(images[int(file.split("/")[0])].name), state, cause))
        for number, upload in enumerate(zips):
            path = Path(folder) / str(number) / re.sub(r"[^\w.-]", "_", plain_name(upload.name))[-LONGEST:]
            path.parent.mkdir()
            path.write_bytes(upload.getvalue())
            rows += _of_zip(path, one_line(upload.name), recipe, said)
            path.unlink()
    return pd.DataFrame(rows, columns=["file", "state", "cause"])


def _of_zip(path: Path, name: str, recipe: Recipe, said: dict[str, Any]) -> list[tuple[str, str, str]]:
    try:
        files = add(path, recipe, **said)
    except CurateError as error:
        return [(name, "refused", str(error).replace(f"{path}: ", ""))]
    if files.empty:
        return [(name, "refused", "an empty zip")]
    return [(f"{name}: {file}", state, cause) for file, state, cause in files.itertuples(index=False)]


def plain_name(name: str) -> str:
    """The last part of a name that a browser sent: one line, no folder, not hidden, never empty."""
    last = re.split(r"[/\\]", one_line(name))[-1]
    return last[-2 * LONGEST :].lstrip(". ") or "untitled"


def manifest_beside(reviewed: Path) -> Path:
    """Where all images held are listed, as `curate add` does it; never the manifest that is under review."""
    return reviewed.with_name("scraped.csv" if reviewed.name != "scraped.csv" else "contributed.csv")


def _show(desk: Desk, recipe: Recipe, taken: Taken) -> None:
    counts = taken.files["state"].value_counts()
    said = ", ".join(f"{counts.get(state, 0)} {state}" for state in STATES)
    st.text(f"{len(taken.files)} files for {taken.label}: {said}.")
    st.dataframe(taken.files, hide_index=True, alt="What became of each file")
    if not permits(identify(taken.license) or taken.license, "asserted", recipe.license):
        st.text(
            f"The recipe asks for licences of the kind {recipe.license!r}, and {taken.license!r} is not known to be "
            "one: these images are kept, but no manifest of this recipe lists them."
        )
    if taken.manifest is None:
        st.text("No image is held for this recipe yet, so that no manifest was written.")
        return
    st.text(
        f"All images held are listed in {taken.manifest}. What is on review here does not change until they have been "
        "compared with the others and measured; `curate balance` takes them along by itself."
    )
    st.code("\n".join(next_commands(desk, taken.manifest)), language=None)


def next_commands(desk: Desk, manifest: Path) -> list[str]:
    """The commands that bring new images before a reviewer: dedup, audit, review."""
    unique, audited = manifest.with_name("unique.csv"), manifest.with_name("audited.csv")
    steps = (["dedup", manifest, "-o", unique], ["audit", unique, "-o", audited], ["review", audited])
    return [shlex.join(["curate", *map(str, step), *same_data(desk)]) for step in steps]


def same_data(desk: Desk) -> list[str]:
    """The options that let a command work on the data root and ledger of this server; an URL may hold a password."""
    root = ["--data", str(desk.root)] if desk.root != Path("data") else []
    return root if desk.ledger.where == ledger_url("", desk.root) else [*root, "--ledger", "LEDGER"]
