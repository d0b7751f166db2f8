"""The review app without a browser: what its routes serve, how the queue is ordered, how decisions are taken in."""

import asyncio
import uuid
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
from apps.desk import Desk, read_flags
from apps.pictures import SecurityHeaders, heat_overlay, picture_routes
from curate.errors import CurateError
from curate.images import inspect
from curate.ledger import Decision, Ledger
from curate.manifest import write_manifest
from curate.queue import ReviewQueue, progress, review_queue
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
    return [item["id"] for item in desk.view(label)["window"]]


# --- queue ---------------------------------------------------------------------------------------------------------


def test_the_queue_is_the_candidates_without_a_decision_most_suspicious_first():
    names = ["low", "none", "high", "also_high", "decided", "copy"]
    manifest = pd.DataFrame(
        {
            "image_id": names,
            "label": ["a", "a", "a", "b", "a", "a"],
            "status": ["candidate"] * 5 + ["duplicate"],
            "suspicion": [0.1, np.nan, 0.8, 0.8, 0.99, 1.0],
        }
    )
    standing = pd.DataFrame({"verdict": ["accept"]}, index=pd.Index(["decided"], name="image_id"))
    assert list(review_queue(manifest, standing)["image_id"]) == ["high", "also_high", "low", "none"]
    assert list(review_queue(manifest, standing, label="a")["image_id"]) == ["high", "low", "none"]
    unaudited = manifest.drop(columns="suspicion")
    assert list(review_queue(unaudited, standing)["image_id"]) == ["low", "none", "high", "also_high"]


def test_a_queue_without_status_names_the_command_that_makes_it():
    with pytest.raises(CurateError, match=r"no column status.*curate scrape"):
        review_queue(pd.DataFrame({"image_id": ["a"], "label": ["b"]}), pd.DataFrame())


def test_progress_counts_a_relabelled_image_in_its_new_class():
    manifest = pd.DataFrame(
        {
            "image_id": ["1", "2", "3", "4", "5"],
            "label": ["basalt", "basalt", "basalt", "granite", "granite"],
            "status": ["candidate", "candidate", "accepted", "duplicate", "candidate"],
        }
    )
    standing = pd.DataFrame(
        {
            "image_id": ["1", "2"],
            "verdict": ["relabel", "reject"],
            "label": ["granite", None],
            "reason": [None, "overlay"],
            "reviewer": "ana",
            "decided_at": "2025-01-01T00:00:00Z",
        }
    ).set_index("image_id")
    counts = progress(manifest, standing, 2)
    assert counts.to_dict("index") == {
        "basalt": {"accepted": 1, "rejected": 1, "waiting": 0, "target": 2},
        "granite": {"accepted": 1, "rejected": 0, "waiting": 1, "target": 2},
    }


def test_folding_decisions_one_by_one_agrees_with_the_tables(tmp_path):
    """300 random decisions and undos by two reviewers on 30 images, compared every 25 with the plain functions."""
    rng = np.random.default_rng(5)
    manifest = pd.DataFrame(
        {
            "image_id": [f"i{n:02}" for n in range(30)],
            "label": rng.choice(["a", "b", "c"], 30),
            "status": rng.choice(["candidate", "candidate", "candidate", "accepted", "duplicate"], 30),
            "suspicion": rng.uniform(size=30).round(1),
        }
    )
    queue, made = ReviewQueue(manifest), []
    with Ledger(tmp_path / "ledger.db") as ledger:
        for n in range(300):
            verdict = str(rng.choice(["accept", "reject", "relabel", "undo"])) if made else "accept"
            taken_back = made[rng.integers(len(made))] if verdict == "undo" else None
            decision = Decision(
                image_id=taken_back.image_id if taken_back else f"i{rng.integers(30):02}",
                verdict=verdict,
                reason="overlay" if verdict == "reject" else None,
                label=str(rng.choice(["a", "b", "c"])) if verdict == "relabel" else None,
                undoes=taken_back.decision_id if taken_back else None,
                reviewer=str(rng.choice(["ana", "bo"])),
                decision_id=str(uuid.uuid4()),
            )
            if verdict != "undo":
                made.append(decision)
            ledger.decide([decision])
            queue.add(decision)
            if n % 25 == 0:
                standing = ledger.standing()
                waiting = list(review_queue(manifest, standing, label="b")["image_id"])
                assert queue.waiting("b", 99) == waiting
                expected = progress(manifest, standing, 9).reset_index().to_dict("records")
                assert [c for c in queue.counts(9) if c["label"] in set(manifest["label"])] == expected
                mine = standing.sort_values("position", ascending=False).query("reviewer == 'ana'")
                assert [d.decision_id for d in queue.undoable("ana", 99)] == list(mine["decision_id"])


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
    assert [d["id"] for d in later.view(None)["recent"]] == [second["id"], first["id"]]
    later.take([event("tie", "undo", undoes=second["id"])])
    assert shown(later) == ["tie", "calm"]
    assert [d["id"] for d in later.view(None)["recent"]] == [first["id"]]
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
    assert read_flags("cam_peak_distance=0.81 (0.7); object_count=many (> 1); strange") == [
        {"measure": "cam_peak_distance", "value": "0.81", "threshold": "0.7"},
        {"measure": "object_count", "value": "many", "threshold": "> 1"},
        {"measure": "strange", "value": "", "threshold": ""},
    ]
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
    assert (desk.root / "cache/thumbs/odd.jpg").is_file()


@pytest.mark.parametrize(
    "path",
    [
        "/img/stranger",
        "/img/..%2f..%2faudited.csv",
        "/img/../audited.csv",
        "/img/%2e%2e",
        "/thumb/odd%00",
        "/heat/odd",
        "/heat/..%2f..%2f..%2fledger",
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
    overlay = np.asarray(Image.open(BytesIO(get("/heat/odd").content)))
    assert overlay.shape == (224, 224, 4)
    assert overlay[:, :100, 3].max() == 0
    assert overlay[112, 176, 3] == 255
    assert np.array_equal(overlay, np.asarray(heat_overlay(Image.fromarray(grey))))


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
