"""What the screen sees of a data set, kept by the audit for the review app, which has no embeddings of its own."""

import hashlib
import logging
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from curate.cache import DAMAGED
from curate.files import replacing
from curate.screen import Space

log = logging.getLogger("curate")
MOST = 8  # data sets, those audited last


def keep_space(root: Path, image_ids: Iterable[str], space: Space) -> None:
    """Write it below `cache/`: about 640 bytes an image."""
    path = _path(root, image_ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = space._replace(features=space.features.astype(np.float16))._asdict()
    arrays["measures"] = np.array(space.measures, dtype="U")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    for older in sorted(path.parent.glob("*.npz"), key=lambda kept: kept.stat().st_mtime)[:-MOST]:
        older.unlink(missing_ok=True)


def kept_space(root: Path, image_ids: Collection[str]) -> Space | None:
    """The space of exactly these images in this order; None where no audit has kept one, or its file is damaged."""
    path = _path(root, image_ids)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in Space._fields}
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        log.warning("%s: damaged, made again by `curate audit`: %s", path, error)
        return None
    if len(arrays["usable"]) != len(image_ids):
        return None
    measures = tuple(arrays.pop("measures").tolist())
    return Space(**{**arrays, "features": arrays["features"].astype(np.float32), "measures": measures})


def _path(root: Path, image_ids: Iterable[str]) -> Path:
    digest = hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:32]
    return root / "cache" / "spaces" / f"{digest}.npz"
