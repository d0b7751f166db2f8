"""What one decode of an image costs, beside the tools that do the same work; and how true a decode at reduced size is.

    python -m benchmarks.decode                  # on the real photos, and on one that is enlarged to 12 megapixels
    python -m benchmarks.decode --photos DIR     # on one's own

`curate.images.inspect` decodes a JPEG once, at a reduced size, and tells from it SHA-256, perceptual hash and quality.
How far hash and quality lie from those of the full picture is counted over all photos. Beside it stand

    imagehash     Pillow decodes the full picture, imagehash.phash hashes it: nothing else
    imagededup    PHash().encode_image, nothing else
    CleanVision   Imagelab(...).find_issues with all issues that it looks for by default, one process

on files with the same picture, each time moved a little, at 640 x 480 and at 12 megapixels. Milliseconds of processor
time an image, reading the file included, imports and start excluded; the median of the rounds. imagehash takes turns
with ours; the other two, which come from `make peers`, run after them in a process of their own. CleanVision is given a
third of the files and all of them, and charged with what each of those more costs.
"""

import argparse
import io
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import imagehash
import numpy as np
from PIL import Image, ImageChops

from curate.console import print_table
from curate.images import HASHED_SIDE, decode, inspect, quality
from curate.store import ImageError, Picture

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
PHOTOS = ROOT.parent / "shared" / "data" / "rocks"
SMALL, LARGE = "640 x 480", "12 megapixels"
SIZES = {SMALL: (640, 480), LARGE: (4000, 3000)}
FILES = {SMALL: 24, LARGE: 6}
PREFIXES = {"ours": "", "imagehash": "full_", "imagededup": "imagededup_", "cleanvision": "cleanvision_"}
SPEEDUPS = {"imagehash": "speedup", "imagededup": "speedup_vs_imagededup", "cleanvision": "speedup_vs_cleanvision"}
UNITS = {"sharpness": "share of it", "brightness": "grey levels", "contrast": "grey levels", "entropy": "bits"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="a folder with JPEGs, at any depth")
    parser.add_argument("--quick", action="store_true", help="every fifth photo, one round")
    options = parser.parse_args()
    photos = jpegs(options.photos)[:: 5 if options.quick else 1]
    if not photos:
        print(f"no JPEGs below {options.photos}; give --photos DIR")
        print(json.dumps({"skipped": str(options.photos)}))
        return
    figures = print_agreement(photos)
    largest = max(photos, key=lambda data: inspect(data).width)
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            files = written(shifted(enlarged(largest, size), FILES[name]), Path(folder))
            costs = cpu_ms(files, 1 if options.quick else 7)
        print_table((name, "ms of processor time", "times ours"), told(costs))
        figures |= named(costs, name.replace(" ", ""))
    print(json.dumps(figures))


def at_640x480(photos: Sequence[Path], rounds: int = 3) -> tuple[float, float | None]:
    """Milliseconds of processor time an image of ours and of CleanVision, on these photos made 640 x 480.

    None instead of the latter without `make peers`. Three photos or more; CleanVision's figure is steadier with 20.
    """
    with tempfile.TemporaryDirectory() as folder:
        pictures = [enlarged(path.read_bytes(), SIZES[SMALL]) for path in photos]
        costs = cpu_ms(written(pictures, Path(folder)), rounds)
    return costs["ours"], costs.get("cleanvision")


def jpegs(folder: Path) -> list[bytes]:
    """All of them that open."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        try:
            if data.startswith(b"\xff\xd8") and inspect(data).format == "JPEG":
                found.append(data)
        except ImageError:
            print(f"{path} does not open: left out")
    return found


def print_agreement(photos: Sequence[bytes]) -> dict[str, object]:
    """How far hash and quality of a decode at reduced size lie from the full picture's; the figures by key."""
    bits, apart = Counter[int](), []
    for data in photos:
        found, full = inspect(data), decode(data)
        bits[int(imagehash.hex_to_hash(found.phash) - imagehash.phash(full))] += 1
        if min(found.width, found.height) >= 2 * HASHED_SIDE:
            apart.append(quality_apart(found, quality(full.convert("L"))))
    rows = [(str(n), str(bits[n]), f"{100 * bits[n] / len(photos):.1f} %") for n in sorted(bits)]
    print_table(("bits apart", f"of {len(photos)} photos", "share"), rows)
    figures: dict[str, object] = {"photos": len(photos), "most_bits_apart": max(bits)}
    figures["same_hash"] = round(bits[0] / len(photos), 4)
    if apart:
        levels = np.percentile(apart, [50, 95, 100], axis=0).T
        table = [
            (name, unit, *(f"{value:.3f}" for value in row))
            for (name, unit), row in zip(UNITS.items(), levels, strict=True)
        ]
        print_table((f"apart, of {len(apart)} made smaller", "in", "median", "95 %", "most"), table)
        figures |= {f"{name}_apart": round(row[-1], 3) for name, row in zip(UNITS, levels.tolist(), strict=True)}
    return figures


def quality_apart(found: Picture, full: dict[str, float]) -> list[float]:
    """In the order and the units of `UNITS`."""
    apart = {name: abs(value - getattr(found, name)) for name, value in full.items()}
    apart["sharpness"] /= max(full["sharpness"], 1e-9)
    return [apart[name] for name in UNITS]


def enlarged(data: bytes, size: tuple[int, int]) -> bytes:
    """The same picture at another size."""
    return jpeg(decode(data).resize(size, Image.Resampling.BICUBIC))


def shifted(data: bytes, number: int) -> list[bytes]:
    """The picture, moved a little further to the right each time; what leaves it comes in on the left."""
    picture = decode(data)
    return [jpeg(ImageChops.offset(picture, picture.width * n // (2 * number), 0)) for n in range(number)]


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def written(pictures: Sequence[bytes], folder: Path) -> list[Path]:
    paths = [folder / f"{n:03d}.jpg" for n in range(len(pictures))]
    for path, data in zip(paths, pictures, strict=True):
        path.write_bytes(data)
    return paths


def cpu_ms(files: Sequence[Path], rounds: int) -> dict[str, float]:
    """Tool -> milliseconds of processor time an image of these files; the peers only where they are installed."""
    steps: dict[str, Callable[[Path], object]] = {"ours": ours, "imagehash": with_imagehash}
    taken: dict[str, list[float]] = {tool: [] for tool in steps}
    for _ in range(rounds + 1):  # what is loaded at the first call the first round pays
        for tool, step in steps.items():
            taken[tool].append(timed(step, files))
    return {tool: median(times[1:]) for tool, times in taken.items()} | of_peers(files, rounds)


def ours(path: Path) -> Picture:
    return inspect(path.read_bytes())


def with_imagehash(path: Path) -> str:
    with Image.open(path) as image:
        return str(imagehash.phash(image))


def timed(step: Callable[[Path], object], files: Sequence[Path]) -> float:
    began = time.thread_time()
    for path in files:
        step(path)
    return 1000 * (time.thread_time() - began) / len(files)


def of_peers(files: Sequence[Path], rounds: int) -> dict[str, float]:
    order = json.dumps({"files": [str(path) for path in files], "rounds": rounds})
    script = ROOT / "benchmarks" / "peers" / "drive_decode.py"
    try:
        done = subprocess.run([str(PEERS), str(script)], input=order, capture_output=True, text=True)
    except FileNotFoundError:
        print("imagededup and CleanVision are not installed: `make peers`")
        return {}
    if done.returncode:
        raise SystemExit(f"{script.name} failed: {done.stderr.strip().splitlines()[-1:]}")
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return costs


def told(costs: dict[str, float]) -> list[tuple[str, str, str]]:
    return [(tool, f"{cost:.2f}", f"{cost / costs['ours']:.1f}") for tool, cost in costs.items()]


def named(costs: dict[str, float], size: str) -> dict[str, float]:
    """The costs, and how many times ours each is, as they stand in the last line."""
    milliseconds = {f"{PREFIXES[tool]}cpu_ms_{size}": round(cost, 3) for tool, cost in costs.items()}
    others = {tool: cost for tool, cost in costs.items() if tool != "ours"}
    return milliseconds | {f"{SPEEDUPS[tool]}_{size}": round(cost / costs["ours"], 2) for tool, cost in others.items()}


if __name__ == "__main__":
    main()
