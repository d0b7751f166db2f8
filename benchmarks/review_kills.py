"""Servers and browsers killed while a reviewer decides, and what the ledger holds of what was shown as saved."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from playwright.async_api import BrowserContext, Error, Page, Playwright, async_playwright

from benchmarks.review_pages import (
    ARGS,
    CHROMIUM,
    PATIENCE,
    VIEWPORT,
    Server,
    draw_key,
    make_data,
    open_review,
    prepare,
    review_server,
    state,
)
from curate.ledger import Ledger

JUDGED = ("accept", "reject", "relabel")
BEAT = 0.1  # seconds between two keys
LATEST = 1.5  # seconds after the first decision that is saved again at which a server is killed
AWAY = 1.0  # seconds at most until it is started again
SITTING = 3.0  # seconds at most of keys before a browser is killed
FLUSH = 6.0  # seconds at most that a browser lives on with a server that does not answer: what it kept reaches the disk
DECISIONS = 60  # at most, between two kills


class Promises:
    """What the pages told: decisions made, shown as saved, and met in the outbox when a page was opened."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.saved: set[str] = set()
        self.found: set[str] = set()

    def told(self, _: object, note: dict[str, Any]) -> None:
        """The binding that `review_pages.js` calls."""
        getattr(self, note["what"]).add(note["id"])


class Account(NamedTuple):
    """What became of the promises.

    Attributes:
        saved: decisions shown as saved, and resent: those met in the outbox of a browser that was killed.
        lost: of these, and of those made in a page that lived on, the ones that the ledger does not hold.
        doubled: decisions that it holds more than once, and images judged anew while a judgement stood.
    """

    saved: int
    resent: int
    lost: int
    doubled: int


def account(history: pd.DataFrame, promises: Promises, due: set[str]) -> Account:
    """Compare the promises with the ledger.

    Args:
        history: `Ledger.history()`.
        promises: of the pages.
        due: further decisions that must have arrived.
    """
    times = Counter(history["decision_id"])
    lost = (promises.saved | promises.found | due) - set(times)
    repeated = sum(number - 1 for number in times.values())
    return Account(len(promises.saved), len(promises.found), len(lost), repeated + judged_again(history))


def judged_again(history: pd.DataFrame) -> int:
    """Judgements of images that had one in force already, in the order of the ledger."""
    standing: dict[str, set[str]] = {}
    again = 0
    for row in history.itertuples(index=False):
        mine = standing.setdefault(row.image_id, set())
        if row.verdict == "undo":
            mine.discard(row.undoes)
        elif row.verdict in JUDGED:
            again += bool(mine)
            mine.add(row.decision_id)
    return again


async def kill_servers(folder: Path, kills: int, *, seed: int = 0) -> Account:
    """Kill the server while one page takes ten keys a second; start it on the same port each time.

    Each kill waits until a decision is shown as saved again, and then a moment drawn by `seed`.
    """
    rng = np.random.default_rng(seed)
    make_data(folder, DECISIONS * (kills + 1), distinct=50, side=64)
    server, promises = review_server(folder), Promises()
    server.start()
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            context = await browser.new_context(viewport=VIEWPORT)
            await prepare(context, "ana", promises.told)
            page = await open_review(context, server)
            async with keys_struck(page, rng) as striking:
                for _ in range(kills):
                    await another_saved(promises, page, striking)
                    await asyncio.sleep(rng.uniform(0, LATEST))
                    server.kill()
                    await asyncio.sleep(rng.uniform(0, AWAY))
                    server.begin()
                await another_saved(promises, page, striking)
            await all_saved(page)
            await browser.close()
    finally:
        server.kill()
    with Ledger(folder / "ledger.db") as ledger:
        return account(ledger.history(), promises, promises.made)


async def kill_browsers(folder: Path, kills: int, *, seed: int = 0) -> Account:
    """Kill the browser under ten keys a second and open it again with the same profile.

    In turn with the server up, paused (it reads what was sent to it after the browser is dead), and killed too; in the
    last two cases the browser lives on for a moment, so that some of its outbox reaches the disk. Chromium writes that
    seconds later: decisions that were not shown as saved may go with it.
    """
    rng = np.random.default_rng(seed)
    make_data(folder, DECISIONS * (kills + 1), distinct=50, side=64)
    server, promises = review_server(folder), Promises()
    server.start()
    try:
        async with async_playwright() as playwright:
            for n in range(kills):
                context, page = await open_profile(playwright, folder, server, promises)
                async with keys_struck(page, rng) as striking:
                    await asyncio.sleep(rng.uniform(0, SITTING))
                    if case := (None, signal.SIGSTOP, signal.SIGKILL)[n % 3]:
                        server.process.send_signal(case)
                        await asyncio.sleep(rng.uniform(0, FLUSH))
                    require_struck(striking)
                    kill_profile(folder / "profile")
                with suppress(Error):  # it is dead
                    await context.close()
                if case == signal.SIGSTOP:
                    server.process.send_signal(signal.SIGCONT)
                elif case:
                    server.kill()
                    server.begin()
                    await answering(server)
            context, page = await open_profile(playwright, folder, server, promises)
            await all_saved(page)
            await context.close()
    finally:
        server.kill()
    with Ledger(folder / "ledger.db") as ledger:
        return account(ledger.history(), promises, set())


async def strike(page: Page, rng: np.random.Generator) -> None:
    """Ten keys a second, whatever the page shows; now and then an undo or a skip."""
    due = time.monotonic()
    while True:
        await page.keyboard.press(draw_key(rng, "su"))
        due = max(due + BEAT, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


@asynccontextmanager
async def keys_struck(page: Page, rng: np.random.Generator) -> "AsyncIterator[asyncio.Task[None]]":
    """Meanwhile the keys of `strike`; what goes wrong with them is raised by `require_struck`."""
    striking = asyncio.create_task(strike(page, rng))
    try:
        yield striking
    finally:
        striking.cancel()
        await asyncio.gather(striking, return_exceptions=True)


def require_struck(striking: "asyncio.Task[None]") -> None:
    """Raise what ended the keys, if they ended."""
    if striking.done():
        striking.result()


async def another_saved(promises: Promises, page: Page, striking: "asyncio.Task[None]") -> None:
    """Wait until one more decision is shown as saved.

    Raises:
        RuntimeError: none is within minutes; says what the page shows.
    """
    before, began = len(promises.saved), time.monotonic()
    while len(promises.saved) == before:
        require_struck(striking)
        if time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"nothing is saved any more after {before} decisions: {await state(page)}")
        await asyncio.sleep(0.01)


async def answering(server: Server) -> None:
    """Wait for a server that was begun."""
    while not server.answers():
        server.require_alive()
        await asyncio.sleep(0.01)


async def all_saved(page: Page) -> None:
    """Wait until the outbox is empty."""
    await page.wait_for_selector('.review[data-pending="0"][data-saved="true"]')


async def open_profile(
    playwright: Playwright, folder: Path, server: Server, promises: Promises
) -> tuple[BrowserContext, Page]:
    """A browser that keeps its profile in `folder`, with the review open."""
    context = await playwright.chromium.launch_persistent_context(
        folder / "profile", executable_path=CHROMIUM, args=ARGS, viewport=VIEWPORT
    )
    await prepare(context, "ana", promises.told)
    return context, await open_review(context, server)


def kill_profile(profile: Path) -> None:
    """kill -9 the browser that uses a profile, and what it started (Linux)."""
    began = time.monotonic()
    while pids := [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _uses(path, profile)]:
        if time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"the browser of {profile} does not end: {pids}")
        for pid in pids:
            with suppress(ProcessLookupError):  # ended with the first one
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _uses(cmdline: Path, profile: Path) -> bool:
    try:
        words = cmdline.read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile
        return False
    return f"--user-data-dir={profile}".encode() in words
