"""How many edited copies of real photos are found, and how many different photos are taken for copies, beside others.

    python -m benchmarks.duplicates                # the figures: about 15 minutes with the peers of `make peers`
    python -m benchmarks.duplicates --quick        # every fifth photo, without the peers
    python -m benchmarks.duplicates --thresholds   # the false-pair rate at each threshold of the verification
    python -m benchmarks.duplicates --photos DIR   # either on one's own photos

Photos that have a verified copy among the others are left out first, so that those that remain are distinct. They are
then parted by their content: one half, with parameters of its own, is for tuning and for `--thresholds`; the figures
come from the other half. Each edit makes a pool of its own: the originals, and the edited copy of each. `recall` is the
share of (original, copy) that come out as a pair; `precision` is the share of all pairs that come out that are of one
photo. Collages are filled up with photos of the other half. Intervals are Wilson's, at 95 %.

CleanVision and imagededup (perceptual and difference hash) run at their defaults on the same files, all edits in one
pool, in the environment of `make peers`.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from benchmarks.decode import at_640x480
from curate.candidates import near_wholes, shared_words
from curate.console import print_table, progress_bars
from curate.copies import MIN_ALIKE, SIDE, Look, Match, compare, is_copy, look_at, to_gray
from curate.dedup import find_copies
from curate.fingerprint import fingerprint, to_row
from curate.images import decode, open_gray
from curate.store import ImageError
from curate.threads import map_on_threads, one_thread_each

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "data" / "rocks"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
SEED = 0
QUALITY = {"figure": 85, "tuning": 78}  # of the JPEGs that the copies become
Rng = np.random.Generator
Picture = Image.Image


class Edit(NamedTuple):
    """Something that is done to a photo.

    Attributes:
        function: of the photo, the parameter, a random generator, and photos to fill a collage with.
        figure: the parameter with which the figures are made.
        tuning: that of the tuning half.
    """

    function: Callable[[Picture, Any, Rng, Sequence[Picture]], Picture]
    figure: Any = None
    tuning: Any = None


def compressed(image: Picture, quality: int, *_: object) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Picture, share: float, *_: object) -> Picture:
    return image.resize((max(8, round(image.width * share)), max(8, round(image.height * share))), Image.LANCZOS)


def blurred(image: Picture, share: float, *_: object) -> Picture:
    return image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


def noisy(image: Picture, deviation: float, rng: Rng, *_: object) -> Picture:
    pixels = np.asarray(image, np.float32)
    return Image.fromarray(np.clip(pixels + rng.normal(0, deviation, pixels.shape), 0, 255).astype(np.uint8))


def cropped(image: Picture, kept: float, rng: Rng, *_: object) -> Picture:
    """A part with this share of the area, at a random place."""
    width, height = (max(8, round(n * kept**0.5)) for n in image.size)
    x, y = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((x, y, x + width, y + height))


def turned(image: Picture, degrees: float, *_: object) -> Picture:
    return image.rotate(degrees, Image.BICUBIC, expand=True, fillcolor="white")


def turned_inside(image: Picture, degrees: float, *_: object) -> Picture:
    """Turned, without the corners."""
    edge = abs(np.sin(np.radians(degrees))) * min(image.size)
    return image.rotate(degrees, Image.BICUBIC).crop((edge, edge, image.width - edge, image.height - edge))


def bordered(image: Picture, share: float, rng: Rng, *_: object) -> Picture:
    return ImageOps.expand(image, round(share * max(image.size)), str(rng.choice(["white", "black", "#808080"])))


def letterboxed(image: Picture, ratio: float, *_: object) -> Picture:
    return ImageOps.pad(image, (round(image.height * ratio), image.height) if ratio > 1.5 else image.size[::-1])


def watermarked(image: Picture, share: float, rng: Rng, *_: object) -> Picture:
    """Three lines of half-transparent text across the picture; their height is a share of it."""
    layer = Image.new("RGBA", image.size)
    draw, size = ImageDraw.Draw(layer), max(8, round(share * image.height))
    for line in range(3):
        place = (rng.uniform(0, 0.3) * image.width, (0.1 + 0.3 * line) * image.height)
        draw.text(place, "some stock photo", fill=(255, 255, 255, 170), font_size=size)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def captioned(image: Picture, share: float, *_: object) -> Picture:
    """A bar with text below the picture."""
    bar = max(12, round(share * image.height))
    page = Image.new("RGB", (image.width, image.height + bar), "black")
    page.paste(image)
    ImageDraw.Draw(page).text((4, image.height + 1), "some stock photo agency", fill="white", font_size=bar * 0.7)
    return page


def hue_shifted(image: Picture, steps: int, *_: object) -> Picture:
    """By steps of 256 of the circle."""
    hue, saturation, value = image.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda p: (p + steps) % 256), saturation, value)).convert("RGB")


def gamma(image: Picture, exponent: float, *_: object) -> Picture:
    return image.point([round(255 * (n / 255) ** exponent) for n in range(256)] * 3)


def stretched(image: Picture, factor: float, *_: object) -> Picture:
    return image.resize((max(8, round(image.width * factor)), image.height), Image.BICUBIC)


def collage(image: Picture, across: int, rng: Rng, others: Sequence[Picture]) -> Picture:
    """One tile of a square of two by two, or of a row of `across` where that is 3; the others are other photos."""
    columns, rows = (across, 1) if across == 3 else (2, 2)
    page, mine = Image.new("RGB", (300 * columns, 300 * rows)), rng.integers(columns * rows)
    for n in range(columns * rows):
        tile = image if n == mine else others[rng.integers(len(others))]
        page.paste(ImageOps.fit(tile, (300, 300)), (300 * (n % columns), 300 * (n // columns)))
    return page


EDITS = {
    "JPEG 30": Edit(compressed, 30, 20),
    "resized to 25 %": Edit(resized, 0.25, 0.3),
    "resized to 50 %": Edit(resized, 0.5, 0.6),
    "gray": Edit(lambda image, *_: image.convert("L").convert("RGB")),
    "brightness x0.6": Edit(lambda image, x, *_: ImageEnhance.Brightness(image).enhance(x), 0.6, 0.5),
    "brightness x1.5": Edit(lambda image, x, *_: ImageEnhance.Brightness(image).enhance(x), 1.5, 1.4),
    "contrast x1.5": Edit(lambda image, x, *_: ImageEnhance.Contrast(image).enhance(x), 1.5, 1.8),
    "contrast x0.5": Edit(lambda image, x, *_: ImageEnhance.Contrast(image).enhance(x), 0.5, 0.6),
    "gamma": Edit(gamma, 0.7, 1.4),
    "blur": Edit(blurred, 0.006, 0.004),
    "sharpened": Edit(lambda image, x, *_: ImageEnhance.Sharpness(image).enhance(x), 3, 4),
    "noise": Edit(noisy, 15, 20),
    "10 % cropped": Edit(cropped, 0.9, 0.88),
    "25 % cropped": Edit(cropped, 0.75, 0.7),
    "50 % cropped": Edit(cropped, 0.5, 0.45),
    "half of each side": Edit(cropped, 0.25, 0.28),
    "turned 5 degrees": Edit(turned, 5, 7),
    "turned 5, corners cut": Edit(turned_inside, 5, -4),
    "turned 90 degrees": Edit(lambda image, turn, *_: image.transpose(turn), Image.ROTATE_90, Image.ROTATE_270),
    "mirrored": Edit(lambda image, *_: ImageOps.mirror(image)),
    "upside down": Edit(lambda image, *_: ImageOps.flip(image)),
    "mirrored, cropped": Edit(lambda image, *rest: ImageOps.mirror(cropped(image, *rest)), 0.6, 0.7),
    "border": Edit(bordered, 0.1, 0.15),
    "letterboxed": Edit(letterboxed, 1.8, 2.0),
    "caption": Edit(captioned, 0.12, 0.15),
    "watermark": Edit(watermarked, 0.1, 0.08),
    "hue": Edit(hue_shifted, 30, -40),
    "stretched": Edit(stretched, 1.2, 0.85),
    "collage tile": Edit(collage, 2, 3),
}


class Photo(NamedTuple):
    """A photo that has no copy among the others."""

    name: str
    path: Path


class Pool(NamedTuple):
    """The originals and the copies that one edit made of them."""

    edit: str
    originals: list[Path]
    copies: list[Path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="a folder of photos, at any depth")
    parser.add_argument("--quick", action="store_true", help="every fifth photo, without the peers")
    parser.add_argument("--thresholds", action="store_true", help="on the tuning half, the rates at each threshold")
    parser.add_argument("--tuning", action="store_true", help="recall and precision on the tuning half")
    parser.add_argument("--seed", type=int, default=SEED, help="of places of crops, noise, collages")
    options = parser.parse_args()
    if not options.photos.is_dir():
        print(f"no photos at {options.photos}; give --photos DIR")
        print(json.dumps({"skipped": str(options.photos)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        halves = distinct(options.photos, home)
        half = "tuning" if options.thresholds or options.tuning else "figure"
        mine, others = halves[half], halves["figure" if half == "tuning" else "tuning"]
        mine = mine[::5] if options.quick else mine
        print(f"{len(mine)} distinct photos, {len(EDITS)} edits ({half} half)")
        pools = made(mine, others, half, options.seed, home)
        if options.thresholds:
            with one_thread_each():
                print(json.dumps(thresholds(pools)))
            return
        figures = measured(pools, home, len(mine))
        if not options.quick and half == "figure":
            figures |= beside(pools, home) | decoding([photo.path for photo in mine])
        print(json.dumps(figures))


def distinct(photos: Path, home: Path) -> dict[str, list[Photo]]:
    """Photos that have no verified copy among the others, by half.

    The search is given more than the photos: a smaller copy with more contrast, and the middle, of each.
    """
    files: dict[str, Photo] = {}
    for path in sorted(p for p in photos.rglob("*") if p.is_file()):
        data = path.read_bytes()
        try:
            picture = decode(data)
        except ImageError:
            continue
        name, size = hashlib.sha256(data).hexdigest(), np.array(picture.size)
        if size.min() < 64 or name in files:
            continue
        files[name] = Photo(name[:16], home / "all" / name[:16] / f"photo{path.suffix.lower()}")
        files[name].path.parent.mkdir(parents=True)
        files[name].path.write_bytes(data)
        small = ImageEnhance.Contrast(resized(picture, 0.5)).enhance(1.3)
        small.save(files[name].path.with_name("small.png"))
        picture.crop((*(0.2 * size).astype(int), *(0.8 * size).astype(int))).save(
            files[name].path.with_name("part.png")
        )
    table = pd.DataFrame({"file_name": [str(p.relative_to(home)) for p in sorted((home / "all").glob("*/*"))]})
    table["image_id"] = table["file_name"]
    with progress_bars() as progress:
        pairs = find_copies(table, home, progress=progress).dropna(subset=["second"])
    of = {column: pairs[column].str.split("/").str[1] for column in ("first", "second")}
    across = of["first"] != of["second"]
    copied = set(of["first"][across]) | set(of["second"][across])
    print(f"{len(files)} photos, of which {len(copied)} have a verified copy among the others and are left out")
    halves: dict[str, list[Photo]] = {"figure": [], "tuning": []}
    for name, photo in files.items():
        if photo.name not in copied:
            halves["figure" if int(name[-1], 16) % 2 else "tuning"].append(photo)
    return halves


def made(photos: list[Photo], others: list[Photo], half: str, seed: int, home: Path) -> list[Pool]:
    """The files of every pool: the originals as they came, the copies as JPEGs."""
    fill = [decode(photo.path.read_bytes()) for photo in others[:400]]
    originals = [home / "pool" / "original" / f"{photo.name}{photo.path.suffix.lower()}" for photo in photos]
    for photo, path in zip(photos, originals, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.path.read_bytes())

    def edited(number: int, name: str) -> Path:
        edit, path = EDITS[name], home / "pool" / f"edit{list(EDITS).index(name)}" / f"{photos[number].name}.jpg"
        rng = np.random.default_rng([seed, number, list(EDITS).index(name)])
        picture = edit.function(decode(originals[number].read_bytes()), getattr(edit, half), rng, fill)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "JPEG", quality=QUALITY[half] if name != "JPEG 30" else getattr(edit, half))
        return path

    pools = []
    for name in EDITS:
        copies = Parallel(2, prefer="threads")(delayed(edited)(n, name) for n in range(len(photos)))
        pools.append(Pool(name, originals, copies))
    return pools


def measured(pools: list[Pool], home: Path, photos: int) -> dict[str, object]:
    """Recall of each edit and precision, with the pairs that are wrong by name."""
    hits, true, false = {}, 0, 0
    began = (time.process_time(), time.monotonic())
    for pool in pools:
        pairs = found(pool, home)
        right = {(a, b) for a, b in pairs if Path(a).stem == Path(b).stem}
        hits[pool.edit] = len(right)
        true, false = true + len(right), false + len(pairs) - len(right)
        for a, b in sorted(pairs - right):
            print(f"not one photo ({pool.edit}): {a} {b}")
    spent, took = time.process_time() - began[0], time.monotonic() - began[1]
    rows = [(edit, *percent(n, photos)) for edit, n in sorted(hits.items(), key=lambda item: item[1])]
    print_table(("edit", "recall", "95 % interval"), rows)
    total = photos * len(pools)
    worst = min(hits, key=lambda edit: hits[edit])
    print_table(
        ("", "", "95 % interval"),
        [("recall", *percent(sum(hits.values()), total)), ("pair precision", *percent(true, true + false))],
    )
    compared = len(pools) * (2 * photos) * (2 * photos - 1) // 2 - total
    print(f"{false} of {compared:,} pairs of different photos were taken for copies")
    return {
        "photos": photos,
        "edits": len(pools),
        "recall": round(sum(hits.values()) / total, 4),
        "recall_interval": interval(sum(hits.values()), total),
        "worst_edit": worst,
        "worst_edit_recall": round(hits[worst] / photos, 4),
        "pair_precision": round(true / max(true + false, 1), 5),
        "pair_precision_interval": interval(true, true + false),
        "false_pairs": false,
        "pairs_of_different_photos": compared,
        "dedup_cpu_ms_per_image": round(1000 * spent / (photos * (len(pools) + 1)), 2),
        "dedup_seconds": round(took, 1),
    }


def found(pool: Pool, home: Path) -> set[tuple[str, str]]:
    """The pairs of files that come out, each below the data root."""
    files = [*pool.originals, *pool.copies]
    names = [str(path.relative_to(home)) for path in files]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    table = pd.DataFrame({"file_name": names, "sha256": hashes, "image_id": names})
    pairs = find_copies(table, home).dropna(subset=["second"])
    return set(zip(pairs["first"], pairs["second"], strict=True))


def thresholds(pools: list[Pool]) -> dict[str, object]:
    """Recall and false pairs at each value of MIN_ALIKE, the other conditions as they are."""
    original = looks_of(pools[0].originals)
    n = len(original)
    right: list[Match | None] = []
    wrong = [match for match in compared(original, candidates(original)).values() if match]
    different = n * (n - 1) // 2
    for pool in pools:
        looks = original + looks_of(pool.copies)
        matches = compared(looks, candidates(looks, n))
        right += [matches.get((k, k + n)) for k in range(n)]
        wrong += [match for (a, b), match in matches.items() if match and b - a != n]
        different += n * n - n + n * (n - 1) // 2
    table, figures = [], {}
    for least in (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        recall = sum(m is not None and is_copy(m, least) for m in right) / len(right)
        false = sum(is_copy(m, least) for m in wrong)
        upper = interval(false, different)[1]
        table.append((f"{least:.2f}", f"{100 * recall:.2f} %", str(false), f"{1e6 * upper:.2f}"))
        if least == MIN_ALIKE:
            figures = {"recall": round(recall, 4), "false_pairs": false, "false_pair_rate_upper": upper}
    print_table(("least median correlation", "recall", "false pairs", "at most, a million pairs (97.5 %)"), table)
    highest = sorted((m.alike for m in wrong if is_copy(m, -1)), reverse=True)[:10]
    print(f"{different:,} pairs of different photos, {len(wrong):,} of them lined up by some points; the most alike of")
    print(f"those that pass all other conditions: {', '.join(f'{x:.2f}' for x in highest) or 'none'}")
    return {"different": different, "threshold": MIN_ALIKE, **figures}


def looks_of(paths: list[Path]) -> list[Look]:
    return list(map_on_threads(lambda p: look_at(to_gray(open_gray(p.parent, p.name, SIDE))), paths, "", 2, None))


def candidates(looks: list[Look], start: int = 0) -> set[tuple[int, int]]:
    """The pairs that would be verified, with one at least from `start` on."""
    rows = np.stack([to_row(fingerprint(look)) for look in looks])
    pairs = [near_wholes(rows, start)[:, :2], shared_words(rows, np.arange(len(rows)), start)]
    return {(a, b) for a, b in np.concatenate(pairs).tolist()}


def compared(looks: list[Look], pairs: set[tuple[int, int]]) -> dict[tuple[int, int], Match | None]:
    order = sorted(pairs)
    return dict(
        zip(order, map_on_threads(lambda p: compare(looks[p[0]], looks[p[1]]), order, "", 2, None), strict=True)
    )


def beside(pools: list[Pool], home: Path) -> dict[str, object]:
    """What CleanVision and imagededup find in the same files, all in one pool."""
    if not PEERS.exists():
        print("the peers are not installed: `make peers`")
        return {}
    names = {str(path.relative_to(home / "pool")): path.stem for pool in pools for path in pool.originals + pool.copies}
    order = {"root": str(home / "pool"), "files": list(names), "out": str(home / "peers.json")}
    subprocess.run(
        [PEERS, ROOT / "benchmarks" / "peers" / "drive_duplicates.py"],
        input=json.dumps(order),
        text=True,
        check=True,
        stdout=sys.stderr,
    )
    answers = json.loads(Path(order["out"]).read_text())
    figures: dict[str, object] = {}
    rows = []
    for tool, pairs in answers.items():
        said = {frozenset(pair) for pair in pairs}
        per_edit = {
            pool.edit: sum(
                frozenset((str(a.relative_to(home / "pool")), str(b.relative_to(home / "pool")))) in said
                for a, b in zip(pool.originals, pool.copies, strict=True)
            )
            for pool in pools
        }
        total = len(pools) * len(pools[0].originals)
        right, false = sum(per_edit.values()), sum(len({names[n] for n in pair}) > 1 for pair in said)
        worst = min(per_edit, key=lambda edit: per_edit[edit])
        rows.append((tool, *percent(right, total), f"{worst}: {per_edit[worst]}", str(false)))
        figures |= {f"{tool}_recall": round(right / total, 4), f"{tool}_false_pairs": false}
    print_table(("at its defaults", "recall", "95 % interval", "worst edit: found", "false pairs"), rows)
    return figures


def decoding(photos: list[Path]) -> dict[str, object]:
    """Hash and quality in one decode, beside what CleanVision needs: milliseconds of processor time an image."""
    ours, cleanvision = at_640x480(photos)
    figures = {"cpu_ms_per_image": round(ours, 3)}
    return figures if cleanvision is None else figures | {"cleanvision_cpu_ms_per_image": round(cleanvision, 3)}


def percent(part: int, whole: int) -> tuple[str, str]:
    low, high = interval(part, whole)
    return f"{100 * part / max(whole, 1):.2f} %", f"{100 * low:.2f} to {100 * high:.2f}"


def interval(part: int, whole: int) -> tuple[float, float]:
    """Wilson's, at 95 %: E. B. Wilson, JASA 22 (1927)."""
    if not whole:
        return 0.0, 1.0
    z, p = 1.96, part / whole
    centre, spread = p + z * z / (2 * whole), z * (p * (1 - p) / whole + z * z / (4 * whole * whole)) ** 0.5
    low, high = ((centre + sign * spread) / (1 + z * z / whole) for sign in (-1, 1))
    return max(0.0, round(low, 9)), min(1.0, round(high, 9))


if __name__ == "__main__":
    main()
