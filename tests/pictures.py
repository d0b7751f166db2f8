"""Small photographs that differ, for the tests of what is collected and how."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from curate.recipe import ImageClass, Recipe, Web
from tests.web import LoopbackWeb, Photo


def jpeg(seed: int, width: int = 200, height: int = 160, hue: int = 0) -> bytes:
    """A photograph of nothing: smooth noise, another for each seed; `hue` shifts its channels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
    coarse[..., hue % 3] //= 3
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(image, np.int16) + rng.integers(-12, 12, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photos(label: str, numbers: Sequence[int]) -> list[Photo]:
    """Photos of one class, each by its number."""
    return [Photo(f"{label}/{n:03d}", lambda n=n: jpeg(n), f"{label} number {n}") for n in numbers]


def recipe_for(web: LoopbackWeb, *labels: str, **changes: object) -> Recipe:
    """A recipe whose engines are the loopback web."""
    classes = tuple(ImageClass(label, (f"{label} leaf", f"{label} tree")) for label in labels)
    settings: dict = {"sources": ("bing",), "min_side": 100, **changes}
    return Recipe("trees", classes, web=Web(mirrors=web.mirrors, threads=8, per_host=8), **settings)
