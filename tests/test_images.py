import io
import json
import os
import socket
import struct
import subprocess
import sys
import zlib

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from curate.errors import CurateError
from curate.images import decode, inspect, phash, quality
from curate.store import ImageError, locate, remove_leftovers, store


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 20) -> Image.Image:
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.repeat(np.tile(ramp, (height, 1))[..., None], 3, axis=2))


def bomb(side: int = 20_000) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_bytes_are_stored_as_they_came_once(tmp_path):
    data = encoded(gradient(), "PNG")
    picture = inspect(data)
    name = store(tmp_path, data, picture)
    assert name == f"images/{picture.sha256[:2]}/{picture.sha256}.png"
    assert store(tmp_path, data, picture) == name
    assert (tmp_path / name).read_bytes() == data
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


def test_what_a_killed_process_had_half_written_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    folder = tmp_path / "images" / "ab"
    folder.mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    for name in (
        f".a.jpg~{here}~{gone.pid}~0.tmp",
        f".b.jpg~{here}~{os.getpid()}~0.tmp",
        ".c.jpg~other~1~0.tmp",
        "d.jpg",
    ):
        (folder / name).write_bytes(b"half")
    remove_leftovers(tmp_path)
    left = sorted(path.name for path in folder.iterdir())
    assert left == sorted([f".b.jpg~{here}~{os.getpid()}~0.tmp", ".c.jpg~other~1~0.tmp", "d.jpg"])


def test_the_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    data = encoded(gradient(40, 20), "JPEG", exif=exif)
    assert inspect(data)[1:3] == decode(data).size == (20, 40)


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_is_scaled_to_8():
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert decode(encoded(deep, "PNG")).getpixel((0, 0)) == (127, 127, 127)


def test_cmyk_and_palettes_and_animations_become_rgb():
    cmyk = gradient().convert("CMYK")
    assert decode(encoded(cmyk, "JPEG")).mode == "RGB"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    first = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert first.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        encoded(gradient(400, 300), "JPEG")[:900],
        bomb(),
    ],
    ids=["nothing", "html", "svg", "truncated", "bomb"],
)
def test_what_is_no_whole_image_is_refused_with_a_cause(data):
    with pytest.raises(ImageError, match=r"\w"):
        inspect(data)


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Shapes of all sizes, the large ones strongest, as in a photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells, strength in ((3, 60), (8, 40), (24, 20), (80, 8)):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(fine, float) - 128) * strength / 64
    return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))


def test_the_hash_is_that_of_imagehash():
    """Also of pictures so regular that most of their frequencies are nothing."""
    disc = (((np.mgrid[:64, :64] - 31.5) ** 2).sum(axis=0) < 400).astype(np.uint8) * 200
    flat = [Image.fromarray(pixels) for pixels in (disc, disc * 0, disc * 0 + 128)]
    for image in [gradient(), gradient().transpose(Image.Transpose.TRANSPOSE), photo(0, 90, 60), *flat]:
        assert phash(image) == str(imagehash.phash(image))


@pytest.mark.parametrize("size", [(3000, 2000), (1600, 1200), (640, 480), (400, 380), (200, 100)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoding_at_a_reduced_size_tells_the_size_and_hardly_another_hash(size, mode):
    for seed in range(3):
        data = encoded(photo(seed, *size).convert(mode), "JPEG", quality=90)
        picture = inspect(data)
        assert (picture.width, picture.height, picture.bytes) == (*size, len(data))
        assert imagehash.hex_to_hash(picture.phash) - imagehash.phash(decode(data)) <= 2


def measured(pixels: list | np.ndarray) -> dict[str, float]:
    return quality(Image.fromarray(np.asarray(pixels, np.uint8)))


def test_a_flat_picture_has_its_grey_level_and_nothing_else():
    flat = measured(np.full((300, 400), 128))
    assert flat == {"sharpness": 0, "brightness": 128, "contrast": 0, "entropy": 0}
    assert "-" not in json.dumps(flat)


def test_half_black_half_white_is_one_bit():
    """The Laplacian is 255 and -255 in the two columns where the halves meet, of 100: 255 sqrt(2 / 100) = 36.06."""
    halves = np.repeat([[0] * 50 + [255] * 50], 80, axis=0)
    assert measured(halves) == {"sharpness": 36.06, "brightness": 127.5, "contrast": 127.5, "entropy": 1}


def test_a_checkerboard_is_as_sharp_as_can_be():
    """Each pixel differs by 255 from its neighbours: 4 in the 36 inner ones of 8 x 8, 3 at the 24 edges, 2 at corners.

    255 sqrt((36 * 16 + 24 * 9 + 4 * 4) / 64) = 906.05.
    """
    board = np.indices((8, 8)).sum(axis=0) % 2 * 255
    assert measured(board) == {"sharpness": 906.1, "brightness": 127.5, "contrast": 127.5, "entropy": 1}


def test_four_grey_levels_in_equal_parts_are_two_bits():
    """Their mean is 75, their variance (75^2 + 25^2 + 25^2 + 75^2) / 4 = 3125; one row: 50, 0, 0 and -50."""
    assert measured([[0, 50, 100, 150]]) == {"sharpness": 35.36, "brightness": 75, "contrast": 55.9, "entropy": 2}


@pytest.mark.parametrize("size", [(3000, 2000), (640, 480), (400, 300)])
def test_the_more_a_picture_is_blurred_the_less_sharp_it_is(size):
    picture = photo(0, *size)
    radii = [radius * size[1] / 480 for radius in (0, 2, 4, 8)]
    blurred = [encoded(picture.filter(ImageFilter.GaussianBlur(radius)), "JPEG", quality=90) for radius in radii]
    found = [inspect(data).sharpness for data in blurred]
    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * found[-1]


@pytest.mark.parametrize("size", [(3000, 2000), (1600, 1200), (640, 480), (400, 400)])
def test_the_quality_is_hardly_another_one_when_decoded_at_a_reduced_size(size):
    for seed in range(3):
        data = encoded(photo(seed, *size), "JPEG", quality=90)
        reduced, full = inspect(data), quality(decode(data).convert("L"))
        assert reduced.sharpness == pytest.approx(full["sharpness"], rel=0.06)
        assert reduced.brightness == pytest.approx(full["brightness"], abs=1)
        assert reduced.contrast == pytest.approx(full["contrast"], abs=1)
        assert reduced.entropy == pytest.approx(full["entropy"], abs=0.1)


def halves(width: int, height: int) -> Image.Image:
    """Black on the left, white on the right."""
    return Image.fromarray(np.repeat([[0] * (width // 2) + [255] * (width // 2)], height, axis=0).astype(np.uint8))


def greys(*levels: int) -> list[Image.Image]:
    return [Image.new("L", (40, 30), level) for level in levels]


@pytest.mark.parametrize(
    ("data", "brightness", "contrast", "entropy"),
    [
        (encoded(Image.new("L", (1, 1), 77), "PNG"), 77, 0, 0),
        (encoded(halves(30_000, 10), "PNG"), 127.5, 127.5, 1),
        (encoded(halves(30_000, 10).transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100), 127.5, 127.5, 1),
        (encoded(halves(40, 30).convert("1"), "PNG"), 127.5, 127.5, 1),
        (encoded(greys(100)[0], "GIF", save_all=True, append_images=greys(200, 0)), 100, 0, 0),
        (encoded(Image.new("RGBA", (40, 30), (0, 0, 0, 0)), "PNG"), 255, 0, 0),
        (encoded(Image.new("LA", (40, 30), (0, 128)), "PNG"), 127, 0, 0),
        (encoded(Image.fromarray(np.full((30, 40), 32768, np.uint16)), "PNG"), 127, 0, 0),
        (encoded(Image.fromarray(np.full((30, 40), 0.5, np.float32)), "TIFF"), 0, 0, 0),
        (encoded(Image.new("CMYK", (40, 30), (0, 0, 0, 255)), "JPEG"), 0, 0, 0),
    ],
    ids=["1x1", "strip", "upright strip", "1 bit", "animation", "clear", "half clear", "16 bit", "float", "CMYK"],
)
def test_the_quality_of_an_unusual_file_is_a_number_too(data, brightness, contrast, entropy):
    picture = inspect(data)
    assert (picture.brightness, picture.contrast, picture.entropy) == (brightness, contrast, entropy)
    json.dumps(picture, allow_nan=False)


def test_the_quality_of_a_turned_file_is_that_of_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = (inspect(encoded(halves(640, 480), "JPEG", **options)) for options in ({}, {"exif": exif}))
    assert (turned.width, turned.height) == (480, 640)
    assert turned[-4:] == plain[-4:]


def test_decoding_at_a_reduced_size_finds_the_same_damage():
    """Cut off or with bytes changed: what a full decode refuses is refused, with the same cause, and nothing else."""
    whole, rng = encoded(photo(1, 800, 600), "JPEG", quality=80), np.random.default_rng(3)
    refused = 0
    for n in range(150):
        data = bytearray(whole[: rng.integers(100, len(whole))] if n % 2 else whole)
        for place in rng.integers(0, len(data), 3 * (n % 3)):
            data[place] = rng.integers(256)
        full, reduced = cause(decode, bytes(data)), cause(inspect, bytes(data))
        assert full == reduced
        refused += full is not None
    assert 50 < refused < 150


def cause(read, data: bytes) -> str | None:
    try:
        read(data)
    except ImageError as error:
        return str(error)
    return None


def test_randomly_damaged_files_raise_nothing_else():
    rng = np.random.default_rng(0)
    whole = [encoded(gradient(64, 48), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    refused = 0
    for i in range(300):
        data = bytearray(whole[i % len(whole)])
        for position in rng.integers(0, len(data), 12):
            data[position] = rng.integers(256)
        try:
            inspect(bytes(data))
        except ImageError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "images/../../secret.jpg"])
def test_nothing_outside_the_data_root_is_opened(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    with pytest.raises(CurateError, match="outside the data root"):
        locate(tmp_path / "data", name)


def test_a_link_out_of_the_data_root_is_refused(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(CurateError, match="outside the data root"):
        locate(tmp_path / "data", "link.jpg")


def test_a_deleted_image_is_named(tmp_path):
    with pytest.raises(CurateError, match=r"gone\.jpg: no such image"):
        locate(tmp_path, "gone.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_exif_is_turned_as_pillow_turns_it(orientation):
    picture = Image.fromarray(np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    assert np.array_equal(np.asarray(decode(buffer.getvalue())), np.asarray(expected))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_damaged_files_are_images_or_image_errors_and_nothing_else(kind):
    """Bytes changed at random, in the head more often, where the tables and the EXIF are."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a rock"})
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50, 3), np.uint8)).save(buffer, kind, exif=exif)
    whole, rng = buffer.getvalue(), np.random.default_rng(2)
    errors = 0
    for _ in range(600):
        data = bytearray(whole)
        for place in rng.integers(0, rng.choice([60, 300, len(data)]), rng.integers(1, 6)):
            data[place % len(data)] = rng.integers(0, 256)
        try:
            decode(bytes(data[: rng.integers(20, len(data))] if rng.random() < 0.2 else data))
        except ImageError:
            errors += 1
    assert 30 < errors < 600
