"""The address where pages send their decisions: who may, what is answered, and under whose name it is stored."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from starlette.applications import Starlette

from apps import exchange
from apps.desk import Desk, open_desk
from apps.serve import exchanges
from apps.who import LONGEST, who
from tests.test_apps import FOUR, event, make_manifest

OURS = {"content-type": "application/json", "x-deeprock": "1"}
Post = Callable[..., httpx.Response]


@pytest.fixture
def desk(tmp_path):
    desk = Desk(make_manifest(tmp_path, FOUR), tmp_path / "data", str(tmp_path / "l.db"), target=3, reviewer="ana")
    open_desk(desk)
    yield desk
    desk.close()


@pytest.fixture
def post(desk) -> Post:
    app = Starlette(routes=[exchange.exchange_route(exchanges(desk), who)])

    async def ask(page: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.post(f"/exchange/{page}", content=body, headers=headers)

    def send(page: str, message: object, headers: dict[str, str] = OURS) -> httpx.Response:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return asyncio.run(ask(page, body, headers))

    return send


@pytest.mark.parametrize("page", ["review", "grid", "duplicates", "second-opinion"])
def test_every_page_is_answered_with_what_it_shows_and_what_it_asked(post, page):
    answer = post(page, {"reviewer": "bo", "page": 0, "events": []}).json()
    assert answer["reviewer"] == "bo"
    assert answer["asked"] == {"reviewer": "bo", "page": 0}
    assert (answer["acked"], answer["refused"], answer["error"]) == ([], [], "")
    assert {"window", "tiles", "groups"} & set(answer)


def test_decisions_are_stored_under_the_name_that_the_browser_says_on_one_line_and_not_endless(post, desk):
    for name, image in (("bo\n<b>", "odd"), ("", "tie"), (7, "mild"), ("x" * 99, "calm")):
        post("review", {"reviewer": name, "events": [event(image, "accept")]})
    stored = desk.ledger.history().set_index("image_id")["reviewer"].to_dict()
    assert stored == {"odd": "bo <b>", "tie": "ana", "mild": "ana", "calm": "x" * LONGEST}


def test_a_page_of_another_site_cannot_send(post, desk):
    """Without being asked whether it may, it can set neither the type of JSON nor a header of ours."""
    message = {"events": [event("odd", "accept")]}
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/json"}, {"x-deeprock": "1"}):
        assert post("review", message, headers).status_code == 403
    assert desk.ledger.history().empty


def test_what_is_no_message_is_refused_in_words(post, monkeypatch):
    assert post("stranger", {}).status_code == 404
    assert post("review", b"{").status_code == 400
    assert post("review", [1]).text == "not a JSON object"
    assert post("review", {"events": "all", "label": ["x"], "status": 3}).status_code == 200
    monkeypatch.setattr(exchange, "LARGEST", 5)
    assert post("review", {"events": []}).status_code == 413
