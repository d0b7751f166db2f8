"""The review app without a browser: what its routes serve, how the queue is ordered, how decisions are taken in."""

import asyncio
import os
import struct
import uuid
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from apps import serve as server
from apps.desk import Desk
from apps.items import read_flags
from apps.pictures import SecurityHeaders, heat_overlay, picture_routes
from curate.errors import CurateError
from curate.images import inspect, open_rgb, thumbnail
from curate.ledger import Decision, Ledger
from curate.manifest import write_manifest
from curate.store import store


def make_manifest(folder: Path, labels: dict[str, tuple[str, float | None]]) -> Path:
    """A data root under folder/data with one small image per name, and a manifest of label and suspicion."""
    rows = []
    for shade, (name, (label, suspicion)) in enumerate(labels.items()):
        buffer = BytesIO()
        Image.new("RGB", (40, 30), (10 * shade, 90, 90)).save(buffer, "PNG")
        picture = inspect(buffer.getvalue())
        file_name = store(folder / "data", buffer.getvalue(), picture)
        row = {"image_id": name, "file_name": file_name, "label": label, "suspicion": suspicion, "status": "candidate"}
        rows.append({**row, "width": 40, "height": 30, "title": "<img src=x onerror=alert(1)>"})
    write_manifest(pd.DataFrame(rows), folder / "audited.csv")
    return folder / "audited.csv"


FOUR = {"calm": ("basalt", None), "odd": ("basalt", 0.9), "mild": ("granite", 0.3), "tie": ("granite", 0.9)}


@pytest.fixture
def desk(tmp_path):
    manifest = make_manifest(tmp_path, FOUR)
    desk = Desk(manifest, tmp_path / "data", str(tmp_path / "ledger.db"), target=3, reviewer="ana")
    desk.file_names = dict(desk.file_names)  # some tests name other files
    yield desk
    desk.close()


@pytest.fixture
def get(desk) -> Callable[..., httpx.Response]:
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=server.allowed_hosts("127.0.0.1"), www_redirect=False)
    app = Starlette(routes=picture_routes(desk.root, desk.file_names), middleware=[hosts, Middleware(SecurityHeaders)])

    async def ask(path: str, headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get(path, headers=headers)

    return lambda path, **headers: asyncio.run(ask(path, headers))


def event(image_id: str, verdict: str, **more: str) -> dict[str, str]:
    return {"id": str(uuid.uuid4()), "image_id": image_id, "verdict": verdict, **more}


def shown(desk: Desk, label: str | None = None) -> list[str]:
    return [item["id"] for item in desk.view({"label": label})["window"]]


# --- taking decisions in -------------------------------------------------------------------------------------------


def test_an_outbox_is_in_the_ledger_when_it_is_acknowledged_and_twice_is_once(desk):
    outbox = [event("odd", "reject", reason="background"), event("tie", "relabel", label="basalt")]
    assert desk.take(outbox) == {"acked": [e["id"] for e in outbox], "refused": [], "error": ""}
    assert desk.take([*outbox, event("mild", "accept")])["acked"][:2] == [e["id"] for e in outbox]
    history = desk.ledger.history()
    assert list(history["image_id"]) == ["odd", "tie", "mild"]
    assert list(history["reason"].fillna("")) == ["background", "", ""]
    assert list(history["label"].fillna("")) == ["", "basalt", ""]
    assert set(history["reviewer"]) == {"ana"}
    assert shown(desk) == ["calm"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"id": "7"}, "no UUID"),
        ({"image_id": "stranger"}, "not in audited.csv"),
        ({"verdict": "delete"}, "unknown"),
        ({"verdict": "reject", "reason": "ugly"}, "none of off_topic"),
        ({"verdict": "relabel", "label": "<b>"}, "none of basalt, granite"),
        ({"verdict": "undo", "undoes": "nothing"}, "no decision 'nothing' of ana"),
        ({"image_id": ["odd"]}, "not a decision"),
    ],
)
def test_what_no_ledger_takes_is_refused_alone(desk, bad, why):
    good = event("mild", "accept")
    outcome = desk.take([{**event("odd", "accept"), **bad}, good])
    assert outcome["acked"] == [good["id"]]
    assert why in outcome["refused"][0]["why"]
    assert list(desk.ledger.history()["image_id"]) == ["mild"]


def test_a_ledger_that_cannot_be_written_acknowledges_nothing(desk):
    with desk.ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON decisions BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    outcome = desk.take([event("odd", "accept")])
    assert outcome["acked"] == []
    assert "full" in outcome["error"]
    assert shown(desk) == ["odd", "tie", "mild", "calm"]


def test_undo_reaches_back_across_a_restart_but_not_into_the_decisions_of_others(desk, tmp_path):
    first, second = event("odd", "accept"), event("tie", "accept")
    desk.take([first, second])
    desk.ledger.decide([Decision("mild", "accept", reviewer="bo", decision_id=str(uuid.uuid4()))])
    later = Desk(tmp_path / "audited.csv", desk.root, desk.ledger.where, target=3, reviewer="ana")
    assert [d["id"] for d in later.view({})["recent"]] == [second["id"], first["id"]]
    later.take([event("tie", "undo", undoes=second["id"])])
    assert shown(later) == ["tie", "calm"]
    assert [d["id"] for d in later.view({})["recent"]] == [first["id"]]
    others = later.ledger.history().query("reviewer == 'bo'")["decision_id"].item()
    assert later.take([event("mild", "undo", undoes=others)])["acked"] == []
    later.close()


def test_decisions_of_another_process_show_up_and_skipped_images_wait_at_the_end(desk):
    with Ledger(desk.ledger.where) as other:
        other.decide([Decision("odd", "accept", reviewer="bo")])
    skip = event("tie", "skip")
    desk.take([skip])
    assert shown(desk) == ["mild", "calm", "tie"]
    assert shown(desk, "granite") == ["mild", "tie"]
    desk.take([event("tie", "undo", undoes=skip["id"])])
    assert shown(desk) == ["tie", "mild", "calm"]


def test_flags_are_taken_apart_and_an_odd_one_is_shown_whole():
    known, count, odd, unread = read_flags(
        "cam_peak_distance=0.81 (0.7); object_count=many (> 1); strange; unreadable: no image"
    )
    assert (known["measure"], known["value"], known["threshold"]) == ("cam_peak_distance", "0.81", "0.7")
    assert known["meaning"] == "from the heatmap's peak to the frame's centre, 1 = a corner"
    assert (count["value"], count["threshold"]) == ("many", "> 1")
    assert odd == {"measure": "strange", "value": "", "threshold": "", "meaning": ""}
    assert (unread["measure"], unread["value"]) == ("unreadable", "no image")
    assert read_flags(None) == []


# --- pictures ------------------------------------------------------------------------------------------------------


def test_an_image_is_served_as_it_came_and_never_sniffed(get, desk):
    answer = get("/img/odd")
    assert answer.content == (desk.root / desk.file_names["odd"]).read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert get("/thumb/odd").headers["content-type"] == "image/jpeg"
    assert (desk.root / "cache/thumbs-256/odd.jpg").is_file()


@pytest.mark.parametrize(
    "path",
    [
        "/img/stranger",
        "/img/..%2f..%2faudited.csv",
        "/img/../audited.csv",
        "/img/%2e%2e",
        "/thumb/odd%00",
        "/heat/odd",
        "/heat-predicted/odd",
        "/heat/..%2f..%2f..%2fledger",
        "/img/%2fetc%2fpasswd",
        "/img/%c0%ae%c0%ae",
        "/img/odd%0a",
        "/img/odd.",
        "/img/" + "o" * 5000,
        "/img/odd/../../../etc/passwd",
        "/img/",
    ],
)
def test_what_is_not_an_image_of_the_manifest_is_404(get, path):
    assert get(path).status_code == 404


def test_a_foreign_host_gets_nothing(get):
    """A page of another site that rebinds its name to 127.0.0.1 comes with its own name in Host."""
    assert get("/img/odd", Host="rebound.example").status_code == 400
    assert get("/img/odd", Host="localhost:8501").status_code == 200


def test_nothing_outside_the_data_root_is_served(get, desk, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("L", (8, 8)).save(secret)
    (desk.root / desk.file_names["odd"]).unlink()
    (desk.root / desk.file_names["odd"]).symlink_to(secret)
    (desk.root / "cache/heatmaps").mkdir(parents=True)
    (desk.root / "cache/heatmaps/odd.png").symlink_to(secret)
    assert [get(f"/{kind}/odd").status_code for kind in ("img", "thumb", "heat")] == [404] * 3
    (desk.root / "images/away").symlink_to(tmp_path)
    for name in ("../secret.png", str(secret), "images/away/secret.png", "images/../../secret.png", "..\\secret.png"):
        desk.file_names["odd"] = name
        assert [get(f"/{kind}/odd").status_code for kind in ("img", "thumb")] == [404] * 2, name


def test_what_is_no_ordinary_file_neither_hangs_nor_is_read(get, desk):
    os.mkfifo(desk.root / "images/pipe.png")
    (desk.root / "images/zero.png").symlink_to("/dev/zero")
    (desk.root / "images/loop.png").symlink_to("loop.png")
    with (desk.root / "images/endless.png").open("wb") as sparse:
        sparse.truncate(50_000_000_000)
    for name in ("pipe.png", "zero.png", "loop.png", "endless.png", "a" * 5000, ".", "nul\0.png"):
        desk.file_names["odd"] = f"images/{name}"
        assert [get(f"/{kind}/odd").status_code for kind in ("img", "thumb")] == [404] * 2, name


def test_nothing_is_written_outside_the_data_root(get, desk, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (desk.root / "cache").mkdir()
    (desk.root / "cache/thumbs-256").symlink_to(tmp_path / "elsewhere")
    assert get("/thumb/odd").status_code == 404
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_disk_that_takes_nothing_still_shows_the_picture(get, desk):
    (desk.root / "cache").write_bytes(b"no folder can be made here")
    assert Image.open(BytesIO(get("/thumb/odd").content)).size == (40, 30)


@pytest.mark.parametrize(("kind", "size"), [("PNG", (30_000, 200)), ("JPEG", (600, 30_000)), ("WEBP", (16_000, 100))])
def test_a_huge_image_is_shown_reduced(get, desk, kind, size):
    Image.new("RGB", size, (200, 60, 20)).save(desk.root / "images/huge", kind)
    desk.file_names["odd"] = "images/huge"
    shown = Image.open(BytesIO(get("/img/odd").content))
    assert shown.format == "JPEG"
    assert max(shown.size) == 4096
    assert abs(shown.width / shown.height / (size[0] / size[1]) - 1) < 0.02
    assert np.abs(np.asarray(shown).reshape(-1, 3).mean(0) - (200, 60, 20)).max() < 3
    assert max(Image.open(BytesIO(get("/thumb/odd").content)).size) == 256


def test_a_decompression_bomb_is_404_with_words(get, desk):
    """30,000 x 30,000 pixels in 3 kB: its header alone is read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(30_000 * 90_001 // 900))) + chunk(b"IEND", b"")
    (desk.root / "images/bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    desk.file_names["odd"] = "images/bomb.png"
    for kind in ("img", "thumb"):
        answer = get(f"/{kind}/odd")
        assert answer.status_code == 404
        assert answer.text.startswith("the file is no image that can be shown: DecompressionBomb")
        assert answer.headers["cache-control"] == "no-store"


def test_what_an_image_is_its_bytes_say_and_not_its_name(get, desk):
    Image.new("RGB", (9, 9)).save(desk.root / "images/a.jpg", "PNG")
    (desk.root / "images/b.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='hacked=1'/>")
    desk.file_names.update({"odd": "images/a.jpg", "tie": "images/b.png"})
    assert get("/img/odd").headers["content-type"] == "image/png"
    assert get("/img/tie").status_code == 404


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_thumbnail_is_upright_and_like_the_whole_image(get, desk, orientation):
    """A JPEG of 1200 x 900 that is decoded at a quarter, turned by its EXIF as the browser turns the image."""
    down, across = np.mgrid[0:900, 0:1200]
    rgb = np.stack([across * 255 // 1200, down * 255 // 900, 40 * (across > 800)], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(desk.root / "images/photo.jpg", exif=exif, quality=95)
    desk.file_names["odd"] = "images/photo.jpg"
    small = Image.open(BytesIO(get("/thumb/odd").content))
    whole = thumbnail(open_rgb(desk.root, "images/photo.jpg"), 256)
    assert small.size == whole.size == ((256, 192) if orientation < 5 else (192, 256))
    assert np.abs(np.asarray(small, int) - np.asarray(whole, int)).mean() < 2.5


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_a_thumbnail_of_every_kind_of_pixels_is_that_of_the_decoded_image(get, desk, mode):
    """Transparent becomes white, as everywhere else."""
    rng = np.random.default_rng(3)
    rgba = np.repeat(np.repeat(rng.integers(0, 255, (3, 4, 4), np.uint8), 192, 0), 192, 1)
    image = Image.fromarray(rgba, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(rgba[:, :, 0].astype(np.uint16) * 257)
    else:
        image = image.convert("RGB").convert(mode) if mode in ("CMYK", "P", "1") else image.convert(mode)
    image.save(desk.root / "images/kind.tif")
    desk.file_names["odd"] = "images/kind.tif"
    small = Image.open(BytesIO(get("/thumb/odd").content))
    whole = thumbnail(open_rgb(desk.root, "images/kind.tif"), 256)
    assert small.size == whole.size
    assert np.abs(np.asarray(small, int) - np.asarray(whole, int)).mean() < 4


def test_a_deleted_or_damaged_image_is_404_and_tiff_comes_as_jpeg(get, desk):
    (desk.root / desk.file_names["odd"]).unlink()
    (desk.root / desk.file_names["tie"]).write_bytes(b"no image")
    assert get("/img/odd").status_code == 404
    assert get("/thumb/tie").status_code == 404
    Image.new("RGB", (20, 10), "red").save(desk.root / "images/scan.tif")
    desk.file_names["mild"] = "images/scan.tif"
    answer = get("/img/mild")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (20, 10)


def test_a_heatmap_is_clear_where_nothing_speaks_for_the_class_and_strongest_at_its_peak(get, desk):
    grey = np.zeros((56, 56), np.uint8)
    grey[20:36, 36:52] = 255
    (desk.root / "cache/heatmaps").mkdir(parents=True)
    Image.fromarray(grey).save(desk.root / "cache/heatmaps/odd.png")
    overlay = np.asarray(Image.open(BytesIO(get("/heat/odd").content)).convert("RGBA"))
    assert overlay.shape == (224, 224, 4)
    assert overlay[:, :100, 3].max() == 0
    assert overlay[112, 176, 3] == 255
    assert np.array_equal(overlay, np.asarray(heat_overlay(Image.fromarray(grey)).convert("RGBA")))
    assert overlay[112, 176].tolist() == [255, 222, 90, 255]


def test_an_overlay_is_kept_and_made_anew_when_its_heatmap_has_changed(get, desk):
    (desk.root / "cache/heatmaps").mkdir(parents=True)
    for name, grey in {"odd": 255, "odd-predicted": 0}.items():
        Image.new("L", (56, 56), grey).save(desk.root / f"cache/heatmaps/{name}.png")
    first = get("/heat/odd").content
    assert (desk.root / "cache/overlays/odd.png").read_bytes() == first
    assert get("/heat-predicted/odd").content != first
    made = (desk.root / "cache/overlays/odd.png").stat().st_ino
    assert get("/heat/odd").content == first
    assert (desk.root / "cache/overlays/odd.png").stat().st_ino == made, "not made again"
    Image.new("L", (56, 56), 0).save(desk.root / "cache/heatmaps/odd.png")
    os.utime(desk.root / "cache/heatmaps/odd.png", (1, 1))  # an older one that was put back
    assert get("/heat/odd").content == get("/heat-predicted/odd").content
    (desk.root / "cache/heatmaps/odd.png").write_bytes(b"no heatmap")
    assert get("/heat/odd").status_code == 404


# --- the server's own settings -------------------------------------------------------------------------------------


def test_the_server_is_closed_by_default():
    settings = server.settings("127.0.0.1", 8501)
    assert settings["server.address"] == "127.0.0.1"
    assert settings["server.allowedHosts"] == ["127.0.0.1", "localhost"]
    assert settings["browser.gatherUsageStats"] is False
    assert settings["server.enableXsrfProtection"] is True
    assert settings["server.enableCORS"] is True
    assert settings["server.enableStaticServing"] is False
    assert settings["client.showErrorDetails"] == "none"
    assert "*" not in server.allowed_hosts("0.0.0.0")


def test_a_port_in_use_is_said_before_anything_starts(desk, tmp_path):
    with (
        pytest.raises(CurateError, match=r"cannot be used.*another --port"),
        server.socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        server.serve(
            tmp_path / "audited.csv",
            desk.root,
            desk.ledger.where,
            target=3,
            reviewer="ana",
            port=taken.getsockname()[1],
            open_browser=False,
        )
