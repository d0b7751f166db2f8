"""Grad-CAM beside pytorch-grad-cam, used as its README shows: time, memory, and how far the heatmaps lie apart.

    python -m benchmarks.explain                  # four architectures: some six minutes on two idle cores
    python -m benchmarks.explain --photos DIR --weights DIR

The library takes one preprocessed image at a time, with the layer that its README names. Ours takes the same images as
decoded pixels, 16 in a call, and enlarges the maps to 224 x 224 as the library does. Both in float32, in turns in one
process; seconds and processor seconds are medians over the turns, and so are the ratios of each turn. The networks have
the study's seven classes and random heads; MobileNetV2 and VGG16 have their ImageNet weights where the files are there.

One thing makes the maps of DenseNet121 jump, the library's own of the same image too: w = W[c] mean(A > 0) counts the
positions where a channel is above 0 (see `classify.cam.trunk_and_tail`), and in float32 one of the 50,176 values of A
that lies at 0 falls to either side. max_abs_difference is over the images of which all fall to the same side with the
library and with ours, max_abs_difference_all over all images; turned_by_rounding counts the others.

Memory is what a process of its own needs at its peak beyond what it held with the network and the decoded images, for
48 images. The library takes 16 in a call, of one object, which its README makes once. Ours is `explain_parts`, with
the copy that it makes of the trunk and with decoding. memory_growth_1000 is the peak of a process that explains 1,000
images of a run into a folder, all of it, divided by its peak after 100 of them.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd

from benchmarks.options import SHARED
from benchmarks.usage import ROOT
from curate.console import print_table

ARCHITECTURES = {
    "resnet18": "",
    "densenet121": "",
    "vgg16": "vgg16_imagenet_features.pth",
    "mobilenet_v2": "mobilenet_v2_imagenet_features.pth",
}  # and the file of their weights
CLASSES = 7
NAMES = tuple(f"class{i}" for i in range(CLASSES))
SIDE = 224
AT_ONCE = 16  # images of a turn
TURNS = 7
CALLS = 3  # whose memory is looked at
ENOUGH = 100  # photos
EXPLAINED = 1000
CHILD = "from benchmarks.explain import main_of_child; main_of_child()"


class Took(NamedTuple):
    """Of one image."""

    seconds: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=SHARED / "data" / "rocks", help="folder; without, noise")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights", help="folder; without, random ones")
    parser.add_argument("--quick", action="store_true", help="four images a turn, three turns, 200 images for 1,000")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `classify` for itself; for the library too
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        pictures = Path(home) / "pictures.npy"
        np.save(pictures, some_pictures(options.photos))
        for arch, file in ARCHITECTURES.items():
            weights = str(options.weights / file) if file and (options.weights / file).exists() else "none"
            figures |= compare(arch, weights, np.load(pictures), quick=options.quick)
            order = {"arch": arch, "weights": weights, "pictures": str(pictures), "home": home}
            theirs, ours = (child({**order, "who": who})["extra_mb"] for who in ("library", "ours"))
            figures |= {f"memory_mb_{arch}": round(ours), f"library_memory_mb_{arch}": round(theirs)}
            figures[f"memory_share_{arch}"] = round(ours / theirs, 3)
        number = 200 if options.quick else EXPLAINED
        figures |= child({"who": "folder", "pictures": str(pictures), "home": home, "number": number})
    for name in ("max_abs_difference", "max_abs_difference_all"):
        figures[name] = max(figures[f"{name}_{arch}"] for arch in ARCHITECTURES)
    report(figures)
    print(json.dumps(figures))


def some_pictures(photos: Path) -> np.ndarray:
    """(100, 224, 224, 3) uint8: photos, spread over the folder, or smooth noise where there are none."""
    from curate.images import decode, square
    from curate.store import ImageError

    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    pictures = []
    for file in files[:: max(1, len(files) // (2 * ENOUGH))]:
        try:
            pictures.append(square(decode(file.read_bytes()), SIDE))
        except ImageError:
            continue
    if len(pictures) < ENOUGH:
        print(f"no {ENOUGH} photos in {photos}: noise is explained")
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (ENOUGH, 9, 9, 3), dtype=np.uint8)
        pictures = [cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for small in noise]
    return np.stack(pictures[:ENOUGH])


def compare(arch: str, weights: str, pictures: np.ndarray, *, quick: bool) -> dict[str, Any]:
    """Speed-ups and the largest difference of two heatmaps of the same image and class."""
    at_once, turns = (4, 3) if quick else (AT_ONCE, TURNS)
    explain_theirs, explain_ours = both(arch, weights)
    rng = np.random.default_rng(0)
    took: list[tuple[Took, Took]] = []
    apart, turned = np.zeros(0), np.zeros(0, bool)  # by image
    for turn in range(turns + 1):  # the first warms up
        pixels, targets = rng.choice(pictures, at_once, replace=False), rng.integers(0, CLASSES, at_once).tolist()
        order = (explain_theirs, explain_ours) if turn % 2 else (explain_ours, explain_theirs)
        done = {explain: timed(partial(explain, pixels, targets), at_once) for explain in order}
        (their_time, (theirs, their_map)), (our_time, (ours, our_map)) = done[explain_theirs], done[explain_ours]
        apart = np.append(apart, np.abs(theirs - ours).max((1, 2)))
        turned = np.append(turned, ((their_map > 0) != (our_map > 0)).any((1, 2, 3)) & arch.startswith("densenet"))
        if turn:
            took.append((their_time, our_time))
    seconds, cpu = (np.array([[side[k] for side in pair] for pair in took]) for k in (0, 1))
    return {
        f"speedup_{arch}": round(float(np.median(seconds[:, 0] / seconds[:, 1])), 2),
        f"speedup_cpu_{arch}": round(float(np.median(cpu[:, 0] / cpu[:, 1])), 2),
        f"library_ms_{arch}": round(1000 * float(np.median(seconds[:, 0])), 1),
        f"ms_{arch}": round(1000 * float(np.median(seconds[:, 1])), 1),
        f"library_cpu_ms_{arch}": round(1000 * float(np.median(cpu[:, 0])), 1),
        f"cpu_ms_{arch}": round(1000 * float(np.median(cpu[:, 1])), 1),
        f"max_abs_difference_{arch}": float(apart[~turned].max()),
        f"max_abs_difference_all_{arch}": float(apart.max()),
        f"turned_by_rounding_{arch}": f"{turned.sum()} of {len(turned)}",
    }


Found = tuple[np.ndarray, np.ndarray]  # heatmaps (n, 224, 224) in [0, 1], and what they are of (n, channels, h, w)
Explain = Callable[[np.ndarray, list[int]], Found]  # of pixels (n, 224, 224, 3), one class an image


def both(arch: str, weights: str) -> tuple[Explain, Explain]:
    """The library, image by image, and ours, on the same network."""
    import torch

    from classify.data import to_input
    from classify.models import build

    model = build(arch, CLASSES, weights=weights).eval()
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)

    def theirs(pixels: np.ndarray, targets: list[int]) -> Found:
        images = [to_input(pixels[i : i + 1]).contiguous() for i in range(len(pixels))]
        return by_library(plain, arch, images, targets)

    return theirs, prepared(model, arch)


def by_library(model: Any, arch: str, inputs: list[Any], targets: list[int]) -> Found:
    """As its README shows, the object made once; a call an element of `inputs`, which hold one image or several."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layers = [model.layer4[-1] if arch.startswith("resnet") else model.features[-1]]
    left = [ClassifierOutputTarget(target) for target in targets]
    found, explained = [], []
    with GradCAM(model=model, target_layers=layers) as cam:
        for images in inputs:
            found.append(cam(input_tensor=images, targets=left[: len(images)]))
            explained.append(cam.activations_and_grads.activations[0].numpy())
            left = left[len(images) :]
    return np.concatenate(found), np.concatenate(explained)


def prepared(model: Any, arch: str) -> Explain:
    """Ours, as `classify.explain.explain_parts` does it, the maps as large as the library's."""
    from classify.cam import class_activation_maps, enlarged
    from classify.explain import network_of
    from classify.frozen import forward
    from classify.models import Trained

    body, tail, *_ = network_of(Trained(arch, model, NAMES, SIDE))

    def ours(pixels: np.ndarray, targets: list[int]) -> Found:
        activations = forward(body, pixels)
        return enlarged(class_activation_maps(tail, activations, targets), SIDE), activations.numpy()

    return ours


def timed(work: Callable[[], Found], images: int) -> tuple[Took, Found]:
    start, cpu = time.perf_counter(), time.process_time()
    found = work()
    return Took((time.perf_counter() - start) / images, (time.process_time() - cpu) / images), found


def child(order: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own says of itself."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(order)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{order['who']} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main_of_child() -> None:
    order = json.loads(sys.argv[1])
    pictures = np.load(order["pictures"])
    if order["who"] == "folder":
        print(json.dumps(growth(pictures, Path(order["home"]), order["number"])))
        return
    print(json.dumps({"extra_mb": extra_memory(order, pictures[:AT_ONCE])}))


def extra_memory(order: dict[str, Any], pixels: np.ndarray) -> float:
    """MB of the peak of explaining 48 images beyond what is there with the network and 16 decoded images."""
    import pytorch_grad_cam  # noqa: F401  which ours needs for VGG16; modules are no part of the figure
    import torch

    from classify.data import to_input
    from classify.explain import explain_parts, network_of
    from classify.models import Trained, build

    arch, home = order["arch"], Path(order["home"])
    model = build(arch, CLASSES, weights=order["weights"]).eval()
    if order["who"] == "library":
        model = model.to(memory_format=torch.contiguous_format)
        inputs = [to_input(pixels).contiguous()]
        before = resident_mb("VmRSS")
        by_library(model, arch, inputs * CALLS, [0] * AT_ONCE * CALLS)
    else:
        manifest = stored(pixels, home, AT_ONCE * CALLS)
        before = resident_mb("VmRSS")
        network = network_of(Trained(arch, model, NAMES, SIDE))
        del model  # as `explain_split`
        for _ in explain_parts(network, manifest, home, target="label"):
            pass
    return resident_mb("VmHWM") - before


def stored(pictures: np.ndarray, home: Path, number: int) -> pd.DataFrame:
    """A manifest of so many images, over and over the same files in `home`."""
    from PIL import Image

    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(home / f"{i}.jpg")
    rows = [(f"image{i}", f"{i % len(pictures)}.jpg", NAMES[i % CLASSES], "val") for i in range(number)]
    return pd.DataFrame(rows, columns=["image_id", "file_name", "label", "split"])


def growth(pictures: np.ndarray, home: Path, number: int) -> dict[str, Any]:
    """The peak of explaining so many images into a folder, divided by that after the first 100, as various as all."""
    from classify.explain import explain_split
    from classify.models import Trained, build, save_model

    manifest = stored(pictures, home, number)
    run = home / "run"
    run.mkdir()
    save_model(Trained("resnet18", build("resnet18", CLASSES, weights="none"), NAMES, SIDE), run / "model.safetensors")
    peaks: list[float] = []

    def look(done: int, total: int) -> None:
        if done >= ENOUGH and not peaks:
            peaks.append(resident_mb("VmHWM"))

    start = time.perf_counter()
    explain_split(run, manifest, home, progress=look)
    peaks.append(resident_mb("VmHWM"))
    return {
        "peak_mb_after_100": round(peaks[0]),
        f"peak_mb_after_{number}": round(peaks[1]),
        "memory_growth_1000": round(peaks[1] / peaks[0], 3),
        "folder_ms_per_image": round(1000 * (time.perf_counter() - start) / number, 1),
    }


def resident_mb(what: str) -> float:
    """VmRSS, memory that is resident now, or VmHWM, its peak, of this process: of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def report(figures: dict[str, Any]) -> None:
    names = ("library_ms", "ms", "speedup", "library_cpu_ms", "cpu_ms", "speedup_cpu")
    rows = [(arch, *(str(figures[f"{name}_{arch}"]) for name in names)) for arch in ARCHITECTURES]
    print_table(("an image", "library, ms", "ours", "ratio", "of processors, ms", "ours", "ratio"), rows)
    names = ("library_memory_mb", "memory_mb", "memory_share", "max_abs_difference", "max_abs_difference_all")
    rows = [(arch, *(f"{figures[f'{name}_{arch}']:.3g}" for name in names)) for arch in ARCHITECTURES]
    print_table(("", "library, MB", "ours", "share", "largest difference of the maps", "of all images"), rows)


if __name__ == "__main__":
    main()
