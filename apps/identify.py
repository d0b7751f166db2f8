"""The page that judges one photo: what a trained run takes it for, where it looks, and whether it knows such pictures.

PyTorch is loaded when the first photo comes, not before: a server that only reviews does without.
"""

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from PIL import Image

from apps.desk import Desk, current_desk
from curate.errors import CurateError
from curate.images import decode, square, thumbnail
from curate.manifest import read_manifest
from curate.store import ImageError

if TYPE_CHECKING:
    from classify.identify import Identifier, Known, Said

NEEDED = ("torch", "torchvision", "pytorch_grad_cam", "safetensors")
RUN_FILE = "model.safetensors"  # what makes a folder a run
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
LARGEST = 30  # MB of a photo
MB = 1_000_000
SIDE = 480  # pixels of the longer side, as it is shown
WEAK = 0.5  # share of off-topic images beyond the limit, below which its word is said to count little


def page() -> None:
    """Choose a run, drop a photo: classes, heatmap, and how like the training images it is."""
    desk = current_desk()
    st.subheader("Identify")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        st.text(f"A trained run needs {', '.join(missing)}, not installed here. This installs it:")
        st.code("pip install 'deeprock[classify]'", language=None)
        return
    runs = trained_runs(desk.runs)
    if not runs:
        st.text(f"No trained run lies in the folder {desk.runs}. This makes one; `curate review --runs` names another:")
        st.code(
            f"classify train --manifest {shlex.quote(str(desk.path.with_name('balanced.csv')))} "
            f"--data {shlex.quote(str(desk.root))} --runs {shlex.quote(str(desk.runs))}",
            language=None,
        )
        return
    run = st.selectbox("Trained run, the newest first", runs, format_func=lambda path: path.name)
    photo = st.file_uploader(f"A photo, up to {LARGEST} MB", type=IMAGES, max_upload_size=LARGEST)
    if photo is not None:
        if photo.size > LARGEST * MB:
            st.text(f"{photo.size / MB:.0f} MB: at most {LARGEST} MB are opened.")
            return
        try:
            _judged(desk, run, photo.getvalue())
        except ImageError as error:
            st.text(f"This file is not opened: {error}.")
        except CurateError as error:
            st.text(str(error))


def trained_runs(folder: Path) -> list[Path]:
    """The runs in a folder, the one trained last first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (path / RUN_FILE).is_file()]
    return sorted(found, key=lambda path: (path / RUN_FILE).stat().st_mtime, reverse=True)


def _judged(desk: Desk, run: Path, data: bytes) -> None:
    image = decode(data)
    identifier = _identifier(str(run), _written(run / RUN_FILE))
    said = identifier.identify(image)
    best = said.probabilities.index[0]
    st.text(f"Most likely {best}: {said.probabilities.iloc[0]:.0%}.")
    _say_likeness(desk, run, identifier, said)
    st.text("Probability of each class")
    st.dataframe(
        said.probabilities.rename_axis("class").rename("probability").reset_index(),
        hide_index=True,
        height="content",
        column_config={
            "class": st.column_config.TextColumn(width="medium"),
            "probability": st.column_config.ProgressColumn(format="percent", max_value=1.0),
        },
        alt="Probability of each class, the likeliest first",
    )
    st.text(f"The photo, and what speaks for {best}: yellow most, violet least")
    plain = thumbnail(image, SIDE)
    left, right = st.columns(2)
    left.image(plain, width="stretch", alt="The photo")
    right.image(_under_heatmap(image, said, plain.size), width="stretch", alt=f"Its heatmap for {best}")
    st.text("The run divides all its belief among its own classes: it has no answer 'none of them'.")


def _say_likeness(desk: Desk, run: Path, identifier: "Identifier", said: "Said") -> None:
    """Whether it looks like what the run was trained on, or why that cannot be told."""
    manifest = split_manifest(desk)
    written = (_written(run / RUN_FILE), _written(manifest))
    try:
        known = _known(identifier, str(run), str(manifest), str(desk.root), written)
    except (CurateError, OSError) as error:  # a data root that cannot be written has no place for embeddings
        st.text(f"Whether it looks like a specimen at all cannot be told: {error}")
        return
    distance = known.distance(said.embedding)
    st.text(
        f"{verdict(known, distance)} Its distance to the fifth nearest of them is {distance:.2g} (1 - cosine); "
        f"{known.within:.0%} of {known.validated} validation images lie within {known.limit:.2g}. {worth(known)}"
    )


def verdict(known: "Known", distance: float) -> str:
    """Whether a photo at such a distance looks like what the run was trained on, in words."""
    if distance > known.limit:
        return "It looks like none of the images that the run was trained on: perhaps no specimen. Trust no class."
    if known.off_topic and known.caught < WEAK:
        return (
            "It lies as near to the images that the run was trained on as most off-topic photos do: that tells little."
        )
    return "It looks like the images that the run was trained on."


def worth(known: "Known") -> str:
    """What the limit is worth, in words: by the images that were rejected as off topic."""
    if not known.off_topic:
        return "How many off-topic photos lie beyond is not known: none was rejected as such."
    return f"Of {known.off_topic} images rejected as off topic {known.caught:.0%} lie beyond."


def split_manifest(desk: Desk) -> Path:
    """The manifest that runs are trained on: the one under review if it is split, else what `balance` wrote beside."""
    return desk.path if "split" in desk.manifest else desk.path.with_name("balanced.csv")


def _written(path: Path) -> int:
    """When a file was written last; 0 where there is none. What was made of it is kept as long as that stays."""
    return path.stat().st_mtime_ns if path.exists() else 0


@st.cache_resource(max_entries=2, show_spinner="Loading the run")
def _identifier(run: str, written: int) -> "Identifier":
    from classify.identify import load_identifier

    return load_identifier(Path(run))


@st.cache_resource(max_entries=2, show_spinner="Looking at the images that the run was trained on, once")
def _known(_identifier: "Identifier", run: str, manifest: str, root: str, written: tuple[int, int]) -> "Known":
    return _identifier.known(read_manifest(Path(manifest)), Path(root))


def _under_heatmap(image: Image.Image, said: "Said", size: tuple[int, int]) -> Image.Image:
    """The photo under its heatmap, in its own proportions."""
    from classify.heatmaps import overlay

    return Image.fromarray(overlay(square(image, SIDE), said.heatmap)).resize(size)
