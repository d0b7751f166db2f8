"""Train the letter networks of `curate.overlay` on words drawn over photos that have none.

    python -m benchmarks.lettering [--photos DIR] [--quick]

Writes `curate/overlay_weights.npz`: one network over photos of all classes, and two over half of the classes each, so
that `benchmarks.artifacts` can judge every photo by a network that has not seen its class. No real caption or watermark
is shown to any of them; the expert's labels only say which photos are free of both. Twenty minutes of a core, with the
DejaVu and Liberation fonts; `--quick` takes a few steps and writes nothing. The last line is one JSON object: AUROC
of the map, cell by cell, on new words over photos of the classes that each network has not seen.
"""

import argparse
import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score
from torch import nn

import curate
from curate.images import open_rgb, thumbnail
from curate.overlay import SIDE, planes_of

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "rocks"
FONTS = Path("/usr/share/fonts/truetype")
HALVES = {"first": ("basalt", "marble"), "second": ("granite", "quartzite")}
CROP = 192  # pixels, of an example
LETTERED = 0.6  # share of the examples
BATCH, STEPS, RATE = 12, 1400, 4e-3
CHANNELS = (10, 20, 24, 24, 24)
WORDS = (
    *("stock", "photo", "image", "media", "nature", "press", "archive", "rock", "stone", "studio", "com", "www"),
    *("gallery", "science", "museum", "earth", "group", "the", "of", "and", "collection", "picture", "world"),
    *("sample", "vector", "library", "credit", "free", "geo", "mineral", "editorial", "agency", "view", "shop"),
)
LETTERS = list("aaabcdeeefghiiklmnoooprrssttuuvwxyz")
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photos", type=Path, default=PHOTOS, help="folder with truth.csv")
    options.add_argument("--quick", action="store_true", help="a few steps, and nothing is written")
    given = options.parse_args()
    if not (given.photos / "truth.csv").exists() or not FONTS.exists():
        print(f"no photos or no fonts here: {given.photos / 'truth.csv'}, {FONTS}")
        print(json.dumps({"skipped": str(given.photos)}))
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    photos = free_photos(given.photos)
    everything = tuple(sorted(photos))
    arrays, figures = {}, {}
    for seed, (name, classes) in enumerate({**HALVES, "all": everything}.items()):
        network = train([photo for c in classes for photo in photos[c]], 5 if given.quick else STEPS, seed)
        arrays |= stored(name, network, classes)
        if unseen := [photo for c in everything if c not in classes for photo in photos[c]]:
            figures[f"{name}_auroc"] = round(judged(network, unseen), 4)
    if not given.quick:
        np.savez_compressed(Path(curate.__file__).parent / "overlay_weights.npz", **arrays)
    print(json.dumps(figures))


def free_photos(folder: Path) -> dict[str, list[np.ndarray]]:
    """Class -> photos without lettering, (h, w, 3) uint8, longer side at most `SIDE`."""
    truth = pd.read_csv(folder / "truth.csv", keep_default_na=False)
    free = truth[truth["overlay"] == "none"]
    return {
        label: [np.asarray(thumbnail(open_rgb(folder, name), SIDE)) for name in names]
        for label, names in free.groupby("label")["file_name"]
    }


def train(photos: list[np.ndarray], steps: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = untrained()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for step in range(steps):
        inputs, targets = batch(photos, rng)
        loss = nn.functional.binary_cross_entropy_with_logits(
            network(inputs)[:, 0], targets, pos_weight=torch.tensor(2.0)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{step + 1} of {steps} steps: loss {loss.item():.3f}", flush=True)
    return network


def untrained() -> nn.Sequential:
    """What `curate.overlay.letter_map` computes."""
    first, second, third, fourth, fifth = CHANNELS
    return nn.Sequential(
        *(nn.Conv2d(2, first, 5, 2, 2), nn.ReLU(), nn.Conv2d(first, second, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(second, third, 3, 1, 1), nn.ReLU(), nn.Conv2d(third, fourth, 3, 1, 2, 2), nn.ReLU()),
        *(nn.Conv2d(fourth, fifth, 3, 1, 4, 4), nn.ReLU(), nn.Conv2d(fifth, 1, 1)),
    )


def stored(name: str, network: nn.Sequential, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    arrays = {f"{name}.fitted_on": np.array(classes)}
    for i, layer in enumerate(layer for layer in network if isinstance(layer, nn.Conv2d)):
        arrays[f"{name}.{i}.weight"] = layer.weight.detach().numpy().astype(np.float16)
        arrays[f"{name}.{i}.bias"] = layer.bias.detach().numpy()
    return arrays


def judged(network: nn.Sequential, photos: list[np.ndarray]) -> float:
    """AUROC over cells of 4 x 4 pixels, of 240 examples."""
    rng = np.random.default_rng(100)
    scores, truths = [], []
    for _ in range(20):
        inputs, targets = batch(photos, rng)
        with torch.inference_mode():
            scores.append(network(inputs)[:, 0].numpy().ravel())
        truths.append(targets.numpy().ravel() > 0.5)
    return float(roc_auc_score(np.concatenate(truths), np.concatenate(scores)))


def batch(photos: list[np.ndarray], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 2, CROP, CROP) inputs and (n, CROP / 4, CROP / 4) shares of lettering."""
    examples = [example(photos[rng.integers(len(photos))], rng) for _ in range(BATCH)]
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*examples, strict=True))  # type: ignore[return-value]


def example(photo: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A photo resized, perhaps mirrored, darkened or inverted, written on, compressed and cropped; and where it is."""
    scale = rng.uniform(0.6, 1.15)
    height, width = (max(int(length * scale), 90) for length in photo.shape[:2])
    image = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    image = (image[:, ::-1] if rng.random() < 0.5 else image).astype(np.float32)
    if rng.random() < 0.2:
        image = 255 - image if rng.random() < 0.3 else image * rng.uniform(0.5, 1)
    ink = np.zeros((height, width), np.float32)
    if rng.random() < LETTERED:
        image, ink = written(image, rng)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        quality = int(rng.integers(45, 95))
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    return cropped(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), ink, rng)


def cropped(grey: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop, mostly one with some of the ink."""
    below, right = (max(CROP - length, 0) for length in grey.shape)
    grey = cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_CONSTANT, value=int(rng.choice([0, 128, 255])))
    ink = np.pad(ink, ((0, below), (0, right)))
    y, x = (int(rng.integers(0, length - CROP + 1)) for length in grey.shape)
    rows, columns = np.nonzero(ink > 0.3)
    if len(rows) and rng.random() < 0.8:
        i = rng.integers(len(rows))
        y = int(np.clip(rows[i] - rng.integers(CROP), 0, grey.shape[0] - CROP))
        x = int(np.clip(columns[i] - rng.integers(CROP), 0, grey.shape[1] - CROP))
    near = cv2.dilate((ink[y : y + CROP, x : x + CROP] > 0.3).astype(np.float32), np.ones((5, 5), np.uint8))
    target = cv2.resize(near, (CROP // 4, CROP // 4), interpolation=cv2.INTER_AREA)
    return planes_of(grey[y : y + CROP, x : x + CROP]), target


def written(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with lettering on it, and the ink, (h, w) 0 to 1."""
    kinds = (caption_bar, signature, watermark, tiling, block, logo)
    return kinds[rng.choice(len(kinds), p=[0.18, 0.27, 0.2, 0.15, 0.15, 0.05])](image.copy(), rng)


def caption_bar(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The strip below (or above) that agencies add, with small print."""
    height, width = image.shape[:2]
    tall = int(rng.integers(12, 40))
    top = 0 if rng.random() < 0.15 else height - tall
    grounds = (WHITE, WHITE, BLACK, (30, 30, 30), tuple(rng.integers(0, 256, 3)), (20, 120, 180))
    ground = np.array(grounds[rng.integers(len(grounds))], np.float32)
    if rng.random() < 0.85:
        image[top : top + tall] = ground
    ink = np.zeros((height, width), np.float32)
    line = stamp(rng, rng.integers(7, min(18, tall - 3)), rng.integers(1, 4))
    places = (6, width - line.shape[1] - 6, (width - line.shape[1]) // 2)
    put(ink, line, top + (tall - line.shape[0]) // 2, places[rng.integers(3)])
    if rng.random() < 0.5:
        line = stamp(rng, rng.integers(7, 12), 1)
        put(ink, line, top + (tall - line.shape[0]) // 2, width - line.shape[1] - 6)
    colour = WHITE if ground.mean() < 140 else (int(rng.integers(0, 110)),) * 3
    return printed(image, ink, colour, rng.uniform(0.7, 1), rng), ink


def signature(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One or two small lines, mostly along the lower edge."""
    height, width = image.shape[:2]
    total = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 3)):
        ink = np.zeros_like(total)
        line = stamp(rng, rng.integers(7, 18), rng.integers(1, 4))
        line = np.rot90(line) if rng.random() < 0.08 else line
        h, w = line.shape
        y = (2, height - h - 2, height - h - rng.integers(1, 12), rng.integers(height))[
            rng.choice(4, p=[0.15, 0.35, 0.35, 0.15])
        ]
        put(ink, line, y, (2, width - w - 2, (width - w) // 2, rng.integers(-w // 2, width))[rng.integers(4)])
        image = printed(image, ink, colour_of(rng), rng.uniform(0.35, 1), rng)
        total = np.maximum(total, ink)
    return image, total


def watermark(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A large faint name about the middle, perhaps on a faint box, perhaps with a credit below."""
    height, width = image.shape[:2]
    ink = np.zeros((height, width), np.float32)
    line = stamp(rng, rng.integers(14, 56), rng.integers(1, 3), angle=rng.choice([0, 0, 0, rng.uniform(-50, 50)]))
    h, w = line.shape
    y, x = int(height / 2 - h / 2 + rng.normal(0, height / 8)), int(width / 2 - w / 2 + rng.normal(0, width / 8))
    put(ink, line, y, x)
    if rng.random() < 0.4:
        put(ink, stamp(rng, rng.integers(7, 14), 2), y + h + 2, x + rng.integers(0, 30))
    if rng.random() < 0.25:
        box = np.zeros_like(ink)
        box[max(y - 4, 0) : y + h + 6, max(x - 4, 0) : x + w + 6] = 1
        image = blended(image, box, BLACK if rng.random() < 0.7 else WHITE, rng.uniform(0.1, 0.5))
    return printed(image, ink, colour_of(rng), rng.uniform(0.15, 0.75), rng), ink


def tiling(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A faint word or sign again and again, perhaps with diagonal lines."""
    height, width = image.shape[:2]
    ink = np.zeros((height, width), np.float32)
    mark = stamp(rng, rng.integers(9, 34), 1, angle=rng.choice([0, 30, 45, -30, -45, rng.uniform(-60, 60)]))
    if rng.random() < 0.2:
        sign = cv2.circle(np.zeros((30, 30), np.uint8), (15, 15), 12, 255, int(rng.integers(1, 3)), cv2.LINE_AA)
        cv2.putText(sign, "ad"[rng.integers(2)], (9, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
        mark = sign.astype(np.float32) / 255
    down, across = (int(length + rng.integers(8, 70)) for length in mark.shape)
    shift, start = rng.integers(0, across, 2)
    for row, y in enumerate(range(-int(rng.integers(down)), height, down)):
        for x in range(-int(start) - int(row * shift) % across, width, across):
            put(ink, mark, y, x)
    if rng.random() < 0.2:
        for x in range(-height, width, int(rng.integers(50, 140))):
            cv2.line(ink, (x, 0), (x + height, height), 0.6, 1)
    return blended(image, ink, colour_of(rng), rng.uniform(0.07, 0.5)), ink


def block(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Lines of text, half of the time on a plain box."""
    height, width = image.shape[:2]
    size, lines = int(rng.integers(8, 30)), int(rng.integers(1, 7))
    y, x = int(rng.integers(max(height - int(lines * size * 1.3), 1))), int(rng.integers(-20, max(width - 60, 1)))
    ink, colour = np.zeros((height, width), np.float32), colour_of(rng)
    for i in range(lines):
        put(ink, stamp(rng, size, rng.integers(1, 6)), int(y + i * size * 1.35), x)
    if rng.random() < 0.5:
        ground = (WHITE, BLACK, tuple(rng.integers(0, 256, 3)))[rng.integers(3)]
        end = max(np.flatnonzero(ink.any(axis=0)).max(initial=x) + 6, 1)
        image[max(y - 5, 0) : int(y + lines * size * 1.35 + 6), max(x - 5, 0) : end] = ground
        colour = WHITE if np.mean(ground) < 128 else BLACK
    return printed(image, ink, colour, rng.uniform(0.7, 1), rng), ink


def logo(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A disc or ring over a name in a corner."""
    height, width = image.shape[:2]
    ink = np.zeros((height, width), np.float32)
    line = stamp(rng, rng.integers(10, 22), 1)
    h, w = line.shape
    y, x = (4, max(height - h - 20, 0))[rng.integers(2)], (4, max(width - w - 8, 0))[rng.integers(2)]
    put(ink, line, y + 12, x)
    cv2.circle(ink, (x + w // 2, y + 6), 7, 1.0, -1 if rng.random() < 0.5 else 2)
    return printed(image, ink, colour_of(rng), rng.uniform(0.4, 1), rng), ink


def stamp(rng: np.random.Generator, size: int, words: int, angle: float = 0) -> np.ndarray:
    """Ink of one line of text, (h, w) 0 to 1; large ones are sometimes outlines only."""
    fonts = font_files()
    font = ImageFont.truetype(fonts[rng.integers(len(fonts))], int(size))
    line = phrase(rng, words)
    left, top, right, bottom = font.getbbox(line)
    image = Image.new("L", (int(min(right - left + 6, 900)), int(bottom - top + 6)))
    ImageDraw.Draw(image).text((3 - left, 3 - top), line, font=font, fill=255)
    if rng.random() < 0.15 and size > 14:
        image = Image.fromarray(cv2.morphologyEx(np.asarray(image), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
    if angle:
        image = image.rotate(angle, expand=True, resample=Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32) / 255


@cache
def font_files() -> list[Path]:
    found = sorted(path for family in ("dejavu", "liberation") for path in (FONTS / family).glob("*.ttf"))
    return [path for path in found if "Math" not in path.name]


def phrase(rng: np.random.Generator, words: int) -> str:
    """Words, an address, a copyright line or a number."""
    kind = rng.random()
    if kind < 0.2:
        return "".join(rng.choice(list("0123456789"), rng.integers(5, 11)))
    line = " ".join(word(rng) for _ in range(words))
    if kind < 0.45:
        ends = (".com", ".org", ".net", "", ".co.uk")
        return ("© ", "www.", "", "@", "")[rng.integers(5)] + line.replace(" ", "").lower() + ends[rng.integers(5)]
    return f"{line} - {rng.integers(10**4, 10**9)}" if kind < 0.6 else line


def word(rng: np.random.Generator) -> str:
    known = rng.random() < 0.5
    letters = WORDS[rng.integers(len(WORDS))] if known else "".join(rng.choice(LETTERS, rng.integers(2, 10)))
    case = rng.random()
    return letters.upper() if case < 0.25 else letters.capitalize() if case < 0.55 else letters


def put(ink: np.ndarray, mark: np.ndarray, y: int, x: int) -> None:
    """Lay a mark with its upper left corner at (y, x); what lies outside is lost."""
    (height, width), (h, w) = ink.shape, mark.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    if bottom > top and right > left:
        part = ink[top:bottom, left:right]
        np.maximum(part, mark[top - y : bottom - y, left - x : right - x], out=part)


def printed(
    image: np.ndarray, ink: np.ndarray, colour: tuple[int, ...], opacity: float, rng: np.random.Generator
) -> np.ndarray:
    """The ink on the image, one time in four with a shadow of the opposite lightness."""
    if rng.random() < 0.25:
        shadow = BLACK if np.mean(colour) > 128 else WHITE
        image = blended(image, np.roll(ink, (1, 1), (0, 1)), shadow, opacity * 0.6)
    return blended(image, ink, colour, opacity)


def blended(image: np.ndarray, ink: np.ndarray, colour: tuple[int, ...], opacity: float) -> np.ndarray:
    share = (ink * opacity)[..., None]
    return image * (1 - share) + np.asarray(colour, np.float32) * share


def colour_of(rng: np.random.Generator) -> tuple[int, ...]:
    """Mostly white, black or a grey."""
    kind = rng.random()
    if kind < 0.85:
        low, high = (225, 256) if kind < 0.45 else (0, 60) if kind < 0.7 else (90, 200)
        return (int(rng.integers(low, high)),) * 3
    return tuple(rng.integers(0, 256, 3).tolist())


if __name__ == "__main__":
    main()
