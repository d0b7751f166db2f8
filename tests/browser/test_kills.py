"""kill -9 of the server and of the browser while a reviewer decides: what was shown as saved is in the ledger, once.

A short version of `python -m benchmarks.review --only kills`.
"""

import asyncio

import pandas as pd
import pytest

pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from benchmarks.review_kills import Account, Promises, account, kill_browsers, kill_servers
from benchmarks.review_pages import CHROMIUM

pytestmark = pytest.mark.browser


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_killed_servers_and_browsers_lose_nothing_and_store_nothing_twice(tmp_path):
    servers, browsers = asyncio.run(both(tmp_path))
    assert (servers.lost, servers.doubled, browsers.lost, browsers.doubled) == (0, 0, 0, 0)
    assert servers.saved >= 6  # one after each of the five kills, and one before
    assert browsers.saved + browsers.resent > 0


async def both(folder) -> tuple[Account, Account]:
    """Five kills of one server, and meanwhile two of a browser at another."""
    for name in ("servers", "browsers"):
        (folder / name).mkdir()
    async with asyncio.TaskGroup() as group:
        servers = group.create_task(kill_servers(folder / "servers", 5))
        browsers = group.create_task(kill_browsers(folder / "browsers", 2))
    return servers.result(), browsers.result()


def history(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["decision_id", "image_id", "verdict", "undoes"])


def promises(saved: str = "", found: str = "") -> Promises:
    told = Promises()
    for what, names in (("saved", saved), ("found", found)):
        for name in names.split():
            told.told(None, {"what": what, "id": name})
    return told


def test_what_was_promised_and_is_not_in_the_ledger_counts_as_lost():
    kept = history(("d1", "granite", "accept", ""), ("d2", "basalt", "skip", ""))
    assert account(kept, promises("d1", found="d2"), set()) == Account(saved=1, resent=1, lost=0, doubled=0)
    assert account(kept, promises("d1 d3", found="d4"), {"d5"}).lost == 3


@pytest.mark.parametrize(
    ("second", "doubled"),
    [
        (("d1", "granite", "accept", ""), 2),  # the same decision again, which judges the image again
        (("d2", "granite", "reject", ""), 1),
        (("d2", "granite", "undo", "d1"), 0),
        (("d2", "granite", "skip", ""), 0),
        (("d2", "basalt", "accept", ""), 0),
    ],
)
def test_what_is_there_twice_counts_as_doubled(second, doubled):
    assert account(history(("d1", "granite", "accept", ""), second), promises("d1"), set()).doubled == doubled


def test_an_image_that_was_taken_back_may_be_judged_again():
    kept = history(("d1", "granite", "accept", ""), ("d2", "granite", "undo", "d1"), ("d3", "granite", "reject", ""))
    assert account(kept, promises("d1 d2 d3"), set()) == Account(saved=3, resent=0, lost=0, doubled=0)
