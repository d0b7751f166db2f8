"""What a trained run says of one photo: how likely each class is, where it looks, and whether it knows such pictures.

A classifier names a class for any picture. Whether the picture is of the kind it learnt from is told by the distance of
its embedding from those of the training images: that to the fifth nearest, on embeddings of unit length (Sun et al.,
"Out-of-distribution detection with deep nearest neighbors", ICML 2022), which needs nothing but the run and its images.
The limit is set on validation images; images that were rejected as off topic tell what it is worth.

The trunk that embeds is the one that the run began with: training forgets what the classes do not need. On scraped rock
photos, copies kept in one part, with 258 training and 62 validation keepers, the distance tells 278 off-topic photos
from 109 other keepers with an AUROC of 0.96 by MobileNetV2 and by SqueezeNet with their ImageNet weights; of the
off-topic ones 69 and 92 % lie beyond the limit, of the keepers 3 and 15 %. By the trunk of MobileNetV2 after its last
block was trained it is 0.66, and by a small network that began with random weights 0.51, which is nothing. The
probability of the likeliest class gives 0.58, 0.25, 0.47 and 0.42.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from classify.cam import grad_cam
from classify.data import Progress, check_rows, specimen
from classify.features import embed
from classify.frozen import forward, frozen
from classify.models import Trained, load_backbone, load_run
from classify.trunk import Backbone, backbone_of, explained
from classify.weights import at_hand
from curate.errors import CurateError
from curate.images import square

NEIGHBOURS = 5
FALSE_ALARMS = 0.1  # share of the validation images that may lie beyond the limit
OFF_TOPIC = "off_topic"  # the reason of a rejection


class Said(NamedTuple):
    """What a run says of a photo.

    Attributes:
        probabilities: softmax, the likeliest first; index: the classes. Sums to 1.
        heatmap: (56, 56) float32 in [0, 1]: Grad-CAM of the likeliest class, on the photo stretched to a square.
        embedding: (dim,) float32, of unit length.
    """

    probabilities: pd.Series
    heatmap: np.ndarray
    embedding: np.ndarray


class Known(NamedTuple):
    """The images that a run was trained on, and how far from them others may lie.

    Attributes:
        embeddings: (n, dim) float32, of unit length.
        limit: distance that at most `FALSE_ALARMS` of the validation images exceed.
        within: share of the validation images within it.
        validated: how many these are.
        caught: share of the images rejected as off topic beyond it; NaN where there are none.
        off_topic: how many these are.
    """

    embeddings: np.ndarray
    limit: float
    within: float
    validated: int
    caught: float
    off_topic: int

    def distance(self, embedding: np.ndarray) -> float:
        """Of one embedding (dim,) to the fifth nearest, 1 - cosine: 0 to 2."""
        return float(_distances(embedding[None], self.embeddings)[0])


@dataclass(frozen=True)
class Identifier:
    """A run, ready to judge photos one at a time; several threads may share it.

    Attributes:
        backbone: the trunk whose embeddings tell what is familiar; see `began_with`.
    """

    trained: Trained
    backbone: Backbone
    _lock: Lock = field(default_factory=Lock)  # a heatmap hooks into the layers of the model

    def identify(self, image: Image.Image) -> Said:
        """What the run says of a photo: RGB, as `curate.images.decode` gives it."""
        trunk, tail = explained(self.trained.model, self.trained.arch)
        with self._lock:
            shown = specimen(image) if self.trained.crop else image
            pixels = np.stack([square(shown, self.trained.side)])
            activations = forward(trunk, self.trained.seen(pixels))
            with torch.inference_mode():
                probabilities = tail(activations).float().softmax(1).cpu().numpy()[0]
            heatmap = grad_cam(tail, activations, [int(probabilities.argmax())])[0]
            maps = self.backbone.maps(np.stack([square(image, self.backbone.side)]))
        embedding = maps.mean((2, 3)).float().cpu().numpy()
        by_class = pd.Series(probabilities.astype(float), list(self.trained.classes))
        return Said(by_class.sort_values(ascending=False, kind="stable"), heatmap, _unit(embedding)[0])

    def known(self, manifest: pd.DataFrame, root: Path, *, progress: Progress | None = None) -> Known:
        """What is familiar to the run, by the images it was trained on. Their embeddings are cached.

        Args:
            manifest: that the run was trained on: accepted rows with `split`, and what was rejected, with its `reason`.
            root: the data root.
            progress: called with (images done, images to do); not at all where nothing is new.

        Raises:
            CurateError: no splits, other classes than the run's, or too few images that open.
        """
        used, classes = check_rows(manifest)
        if classes != self.trained.classes:
            raise CurateError(
                f"the run tells {', '.join(self.trained.classes)} apart, but the manifest holds {', '.join(classes)}: "
                "it is not the one that the run was trained on."
            )
        parts = {"train": used[used["split"] == "train"], "val": used[used["split"] == "val"]}
        parts["off topic"] = _off_topic(manifest)
        rows = pd.concat(parts)
        vectors = embed(rows, root, self.backbone, cache=root / "cache", progress=progress)
        opened = np.isfinite(vectors).all(axis=1)
        part = rows.index.get_level_values(0)
        train, val, off_topic = (_unit(vectors[opened & (part == name)]) for name in parts)
        if len(train) < NEIGHBOURS or not len(val):
            raise CurateError(
                f"{len(train)} training and {len(val)} validation images open under {root}; at least {NEIGHBOURS} and "
                "1 are needed. Is --data right?"
            )
        apart = _distances(val, train)
        limit = float(np.quantile(apart, 1 - FALSE_ALARMS, method="higher"))
        caught = float((_distances(off_topic, train) > limit).mean()) if len(off_topic) else float("nan")
        return Known(train, limit, float((apart <= limit).mean()), len(val), caught, len(off_topic))


def load_identifier(run: Path) -> Identifier:
    """The best model of a run, and the trunk that it began with.

    Raises:
        CurateError: as `load_run`; an architecture without a spatial map (GoogLeNet, Inception); damaged weights.
    """
    trained = load_run(run)
    backbone = began_with(run, trained)
    return Identifier(replace(trained, model=frozen(trained.model)), backbone)


def began_with(run: Path, trained: Trained) -> Backbone:
    """The trunk before training, where its weights lie on this machine (nothing is downloaded); else the trained one.

    A frozen trunk is both; one that began with random weights is better trained.
    """
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
        weights, freeze = str(config["weights"]), config["freeze"]
    except (OSError, ValueError, KeyError, TypeError):
        weights, freeze = "none", "none"  # a model without its settings
    file = at_hand(trained.arch, weights)
    if freeze != "head" and file:
        return load_backbone(trained.arch, str(file), side=trained.side)
    return backbone_of(trained.model, trained.arch, trained.side, gray=trained.gray)


def _off_topic(manifest: pd.DataFrame) -> pd.DataFrame:
    if not {"status", "reason"} <= set(manifest):
        return manifest.iloc[:0]
    return manifest[manifest["status"].eq("rejected") & manifest["reason"].eq(OFF_TOPIC)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(n, dim) at length 1; a vector of zeros stays as it is."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _distances(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) 1 - cosine to the NEIGHBOURS-th nearest of `known`, both of unit length."""
    return np.partition(1 - vectors @ known.T, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
