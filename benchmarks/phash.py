"""What decoding a JPEG at a reduced size saves, and how far its perceptual hash lies from the full picture's.

    python -m benchmarks.phash                  # on the real photos, and on one that is enlarged to 12 megapixels
    python -m benchmarks.phash --photos DIR     # on one's own

Beside `curate.images.inspect`, which decodes and hashes (SHA-256 and perceptual) in one go, stands the usual way:
Pillow decodes the full picture, imagehash hashes it. Processor time of one thread, the two in turn, the median of the
rounds.
"""

import argparse
import io
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

import imagehash
from PIL import Image

from curate.console import print_table
from curate.images import decode, inspect
from curate.store import ImageError

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "rocks"
SIZES = {"640 x 480": (640, 480), "12 megapixels": (4000, 3000)}


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
    bits = Counter(int(imagehash.hex_to_hash(inspect(data).phash) - imagehash.phash(decode(data))) for data in photos)
    rows = [(str(n), str(bits[n]), f"{100 * bits[n] / len(photos):.1f} %") for n in sorted(bits)]
    print_table(("bits apart", f"of {len(photos)} photos", "share"), rows)
    figures: dict[str, object] = {"photos": len(photos), "most_bits_apart": max(bits)}
    figures["same_hash"] = round(bits[0] / len(photos), 4)
    largest = max(photos, key=lambda data: inspect(data).width)
    for name, size in SIZES.items():
        ours, usual = cpu_ms(enlarged(largest, size), 1 if options.quick else 9)
        print(f"{name}: {ours:.2f} ms of processor time, decoded in full and hashed by imagehash {usual:.2f} ms")
        key = name.replace(" ", "")
        figures |= {f"cpu_ms_{key}": round(ours, 3), f"full_cpu_ms_{key}": round(usual, 3)}
        figures[f"speedup_{key}"] = round(usual / ours, 2)
    print(json.dumps(figures))


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


def enlarged(data: bytes, size: tuple[int, int]) -> bytes:
    """The same picture at another size."""
    buffer = io.BytesIO()
    decode(data).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def cpu_ms(data: bytes, rounds: int) -> tuple[float, float]:
    """Milliseconds of `inspect`, and of the usual way."""
    number = max(1, 2_000_000 // len(data))
    pairs = [(timed(inspect, data, number), timed(usual_way, data, number)) for _ in range(rounds + 1)][1:]
    return median(ours for ours, _ in pairs), median(usual for _, usual in pairs)


def usual_way(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return str(imagehash.phash(image))


def timed(step: Callable[[bytes], object], data: bytes, number: int) -> float:
    began = time.thread_time()
    for _ in range(number):
        step(data)
    return 1000 * (time.thread_time() - began) / number


if __name__ == "__main__":
    main()
