"""How quick the review app is with 100,000 images, and what is lost when it is killed.

    python -m benchmarks.review                          # all of it, 20 minutes on two cores
    python -m benchmarks.review --quick                  # 5,000 images, few keys, few kills
    python -m benchmarks.review --only kills --kills 30  # a part alone: keys, naive, queue, kills
    python -m benchmarks.review --photos PHOTOS          # with JPEGs of your own

The images are JPEGs of 640 x 480, 2,000 different ones, each under many names, with heatmaps, flags and what the
screen needs, as `curate audit` leaves them. `curate review` runs in a process of its own, Chromium beside it on the
same processors, one browser context for each reviewer: with eight of them the browsers cost more than the server.

keys    From a key (its own time stamp, in the browser) until another image is there and `img.decode()` has resolved,
        and until the outbox is empty, which says that the ledger holds the decision; accept or reject by chance. The
        next key comes 150 to 300 ms after the image is there, as from a quick reviewer; `back to back`: at once.
        First page: a new browser context, nothing cached, from the navigation to the first image decoded, the median
        of five; the grid likewise, to all of its images in sight, then a page of it selected, rejected in one step,
        and committed. Memory and time of the processors are of the server with all that it began, the memory after
        the eight reviewers, who never ought to judge an image twice.
naive   The same with a plain Streamlit page (benchmarks/naive_review.py: st.image, st.button, full rerun).
queue   The next 16 images with half of all decided, those that came first: the queue alone, and all that a page shows.
kills   kill -9 of the server under ten keys a second, each time at a moment after a decision was saved again; of the
        browser likewise, with the server up, paused, or killed too. Lost: shown as saved, or met in the outbox
        afterwards, and not in the ledger. Doubled: there twice, or an image judged again while a judgement stood.

Linux only: it reads /proc.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from playwright.async_api import Browser, Page, async_playwright

from apps.desk import Desk
from benchmarks.review_kills import Account, Promises, account, kill_browsers, kill_servers
from benchmarks.review_pages import (
    ARGS,
    CHROMIUM,
    PATIENCE,
    ROOT,
    SAVED,
    VIEWPORT,
    Server,
    draw_key,
    free_port,
    make_data,
    open_review,
    prepare,
    review_server,
    state,
)
from curate.console import print_table
from curate.ledger import Decision, Ledger
from curate.live_queue import LiveQueue
from curate.manifest import read_manifest

PARTS = ("keys", "naive", "queue", "kills")
REVIEWERS = (1, 4, 8)
PACE = (0.15, 0.3)  # seconds between an image and the next key
AGAIN = 0.02  # seconds after which a key that was not taken is pressed again
VISITS = 5
QUERIES = 200
TARGET = 73
NAIVE = r"""
(() => {
  if (!location.protocol.startsWith("http") || window.lab) return;
  const lab = window.lab = { keys: [] };
  const photo = () => document.querySelector("[data-testid=stImage] img");
  let key;
  new MutationObserver(async () => {
    const image = photo();
    if (!key || key.seen || !image || image.src === key.src) return;
    const mine = key;
    mine.seen = true;
    await image.decode();
    mine.decoded = performance.now() - mine.at;
    mine.done();
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] });
  window.addEventListener("keydown", (event) => {
    key = { at: event.timeStamp, src: photo().src };
    key.there = new Promise((resolve) => { key.done = resolve; });
    lab.keys.push(key);
  }, true);
})();
"""


class Run(NamedTuple):
    """Some reviewers at once.

    Attributes:
        decoded: ms from each key to the next image, committed: to the empty outbox.
        cpu_ms: of the server, a key.
        account: what became of the decisions.
    """

    decoded: np.ndarray
    committed: np.ndarray
    cpu_ms: float
    account: Account


def main() -> None:
    options = arguments()
    if not CHROMIUM:
        print("no Chromium on this machine: `make chromium` installs it")
        print(json.dumps({"skipped": "chromium"}))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="review-") as temporary:
        folder = Path(temporary).resolve()
        if {"keys", "naive", "queue"} & set(options.only):
            print(f"{options.rows:,} images ...", flush=True)
            make_data(folder, options.rows, photos=options.photos)
        if "keys" in options.only:
            found |= asyncio.run(measure_keys(folder, options.keys))
        if "naive" in options.only:
            found |= asyncio.run(measure_naive(folder, options.keys))
        if "queue" in options.only:
            found |= measure_queue(folder)
        if "kills" in options.only:
            found |= asyncio.run(measure_kills(folder, options.kills, options.browser_kills))
    print(json.dumps(in_order(found)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 images, 40 keys, 6 and 3 kills")
    parser.add_argument("--rows", type=int, help="images [default: 100000]")
    parser.add_argument("--photos", type=Path, help="folder of JPEGs [default: rendered textures]")
    parser.add_argument("--keys", type=int, help="of each reviewer [default: 200]")
    parser.add_argument("--kills", type=int, help="of the server [default: 100]")
    parser.add_argument("--browser-kills", type=int, help="[default: 20]")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts [default: all]")
    options = parser.parse_args()
    usual = {"rows": (100_000, 5_000), "keys": (200, 40), "kills": (100, 6), "browser_kills": (20, 3)}
    for name, (full, quick) in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def in_order(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that are asked for first, then the others; None where their part was not run."""
    names = ["p95_ms_1", "p95_ms_4", "p95_ms_8", "commit_p95_ms", "first_page_s", "server_mb", "naive_p95_ms"]
    names += ["lost", "doubled"]
    figures = {name: found.get(name) for name in names} | found
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}


async def measure_keys(folder: Path, keys: int) -> dict[str, Any]:
    server = review_server(folder)
    found: dict[str, Any] = {"server_start_s": server.start()}
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            visits = [await first_page(browser, server) for _ in range(VISITS)]
            found |= {"first_page_s": float(np.median(visits)), "first_visit_s": visits[0]}
            runs = {"1, back to back": await review(browser, server, 1, keys, (0.0, 0.0))}
            for number in REVIEWERS:
                runs[str(number)] = await review(browser, server, number, keys, PACE)
            found["server_mb"] = server.memory_mb()
            tell_keys(runs)
            found |= await measure_grid(browser, server)
            await browser.close()
    finally:
        server.kill()
    for name, run in runs.items():
        end = name if name.isdigit() else "back_to_back"
        found[f"median_ms_{end}"], found[f"p95_ms_{end}"] = (float(np.percentile(run.decoded, q)) for q in (50, 95))
        found[f"server_cpu_ms_{end}"] = run.cpu_ms
    most = runs[str(REVIEWERS[-1])]
    found["commit_median_ms"], found["commit_p95_ms"] = (float(np.percentile(runs["1"].committed, q)) for q in (50, 95))
    found |= {"lost_8": most.account.lost, "judged_twice_8": most.account.doubled}
    times = [f"{found[name]:.2f} s" for name in ("server_start_s", "first_page_s", "grid_s")]
    times += [f"{found[name]:.0f} ms" for name in ("grid_select_ms", "grid_judge_ms")]
    header = ("server starts", "first page", "grid", "a page of it selected", "judged and committed", "server's memory")
    print_table(header, [(*times, f"{found['server_mb']:.0f} MB")])
    return found


async def first_page(browser: Browser, server: Server) -> float:
    """Seconds from the navigation to the first image decoded, in a browser that was never there."""
    context = await browser.new_context(viewport=VIEWPORT)
    await prepare(context, "ana")
    page = await open_review(context, server)
    opened = await page.wait_for_function("lab.opened")
    milliseconds: float = await opened.json_value()
    await context.close()
    return milliseconds / 1000


async def measure_grid(browser: Browser, server: Server) -> dict[str, float]:
    """Seconds until the grid is there with the images in sight; ms to select a page of it, and to have it judged."""
    times = []
    for _ in range(VISITS):
        context = await browser.new_context(viewport=VIEWPORT)
        await prepare(context, "ana")
        page = await context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        await page.goto(f"{server.url}/grid")
        opened = await page.wait_for_function("lab.grid.opened")
        await page.keyboard.press("Control+a")
        await page.wait_for_selector('.grid:not([data-selected="0"])')
        select = await page.evaluate("lab.grid.marks['data-selected'] - lab.grid.pressed")
        await page.keyboard.press("4")
        await page.wait_for_selector(".confirm[open]")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".grid" + SAVED)
        judge = await page.evaluate("lab.grid.marks['data-pending'] - lab.grid.pressed")
        times.append((await opened.json_value() / 1000, select, judge))
        await context.close()
    return dict(zip(("grid_s", "grid_select_ms", "grid_judge_ms"), np.median(times, axis=0).tolist(), strict=True))


async def review(browser: Browser, server: Server, number: int, keys: int, pace: tuple[float, float]) -> Run:
    """So many reviewers at once, each with a browser context and keys of its own."""
    contexts = [await browser.new_context(viewport=VIEWPORT) for _ in range(number)]
    for n, context in enumerate(contexts):
        await prepare(context, f"reviewer {n}")
    pages = [await open_review(context, server) for context in contexts]
    for page in pages:
        await page.wait_for_function("lab.opened")
    with Ledger(server.log.parent / "ledger.db") as ledger:
        before = len(ledger.history())
        used = server.cpu_seconds()
        seeds = np.random.SeedSequence((number, keys)).spawn(number)
        rngs = map(np.random.default_rng, seeds)
        await asyncio.gather(*(press(page, keys, pace, rng) for page, rng in zip(pages, rngs, strict=True)))
        for page in pages:
            await page.wait_for_selector(SAVED)
        cpu_ms = 1000 * (server.cpu_seconds() - used) / (number * keys)
        times = [await page.evaluate("lab.keys.map((key) => [key.decoded, key.committed])") for page in pages]
        promises = Promises()
        for page in pages:
            for what in ("made", "saved"):
                getattr(promises, what).update(await page.evaluate(f"lab.{what}"))
        kept = account(ledger.history()[before:], promises, promises.made)
    for context in contexts:
        await context.close()
    decoded, committed = np.array(times, float).reshape(-1, 2).T
    print(f"{number} at {1000 * pace[0]:.0f} ms: {len(decoded)} keys, median {np.median(decoded):.0f} ms", flush=True)
    return Run(decoded, committed, cpu_ms, kept)


async def press(page: Page, keys: int, pace: tuple[float, float], rng: np.random.Generator) -> None:
    """Keys, each some time after the image is there; one that the page does not take is pressed again."""
    for n in range(keys):
        await asyncio.sleep(rng.uniform(*pace))
        key = draw_key(rng)
        await page.keyboard.press(key)
        try:
            async with asyncio.timeout(PATIENCE):
                while not await page.evaluate("lab.keys.at(-1).taken"):
                    await asyncio.sleep(AGAIN)
                    await page.keyboard.press(key)
                await page.evaluate("lab.keys.at(-1).there")
        except TimeoutError:
            raise RuntimeError(f"no other image {PATIENCE:.0f} s after key {n + 1}: {await state(page)}") from None


def tell_keys(runs: dict[str, Run]) -> None:
    header = ("reviewers", "keys", "median ms", "p95 ms", "committed: median ms", "p95 ms", "server CPU ms a key")
    rows = []
    for name, run in runs.items():
        times = [f"{np.percentile(part, q):.0f}" for part in (run.decoded, run.committed) for q in (50, 95)]
        rows.append((name, str(len(run.decoded)), *times, f"{run.cpu_ms:.1f}"))
    print_table(header, rows)
    most = runs[str(REVIEWERS[-1])].account
    print(
        f"{REVIEWERS[-1]} reviewers: {most.saved} decisions saved, {most.lost} lost, {most.doubled} images judged twice"
    )


async def measure_naive(folder: Path, keys: int) -> dict[str, Any]:
    port = free_port()
    settings = {"server.port": port, "server.address": "127.0.0.1", "server.headless": "true"}
    settings |= {"browser.gatherUsageStats": "false", "server.fileWatcherType": "none"}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    script = [str(ROOT / "benchmarks" / "naive_review.py"), *flags, "--", "audited.csv", "data", "naive.db"]
    server = Server([sys.executable, "-m", "streamlit", "run", *script], port, folder / "naive.log")
    server.start()
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            context = await browser.new_context(viewport=VIEWPORT)
            await context.add_init_script(NAIVE)
            page = await context.new_page()
            page.set_default_timeout(1000 * PATIENCE)
            await page.goto(server.url)
            await page.wait_for_selector("[data-testid=stImage] img")
            await page.get_by_role("button", name="Reject").wait_for()
            used = server.cpu_seconds()
            await press_naive(page, keys)
            cpu_ms = 1000 * (server.cpu_seconds() - used) / keys
            times = await page.evaluate("lab.keys.map((key) => key.decoded)")
            await browser.close()
    finally:
        server.kill()
    median, p95 = (float(np.percentile(times, q)) for q in (50, 95))
    row = ("1", str(keys), f"{median:.0f}", f"{p95:.0f}", f"{cpu_ms:.1f}")
    print_table(("plain page: reviewers", "keys", "median ms", "p95 ms", "server CPU ms a key"), [row])
    return {"naive_median_ms": median, "naive_p95_ms": p95, "naive_cpu_ms": cpu_ms}


async def press_naive(page: Page, keys: int) -> None:
    """Keys at the pace of `press`, by the shortcuts of its buttons."""
    rng = np.random.default_rng(keys)
    for n in range(keys):
        await asyncio.sleep(rng.uniform(*PACE))
        await page.keyboard.press(str(rng.choice(["a", "x"])))
        try:
            await asyncio.wait_for(page.evaluate("lab.keys.at(-1).there"), PATIENCE)
        except TimeoutError:
            raise RuntimeError(f"the plain page shows no other image {PATIENCE:.0f} s after key {n + 1}") from None


def measure_queue(folder: Path) -> dict[str, Any]:
    """Half of all images decided, in the order of the queue; without a screen, which would learn meanwhile."""
    manifest = read_manifest(folder / "audited.csv")
    half = manifest["image_id"].iloc[: len(manifest) // 2]
    verdicts = [("accept", None), ("reject", "background")]
    made = [Decision(one, *verdicts[n % 2], reviewer="ana", decision_id=f"{n}") for n, one in enumerate(half)]
    queue = LiveQueue(manifest, TARGET)
    for decision in made:
        queue.add(decision)
    with Ledger(folder / "half.db") as ledger:
        ledger.decide(made)
    desk = Desk(folder / "audited.csv", folder / "nothing", str(folder / "half.db"), target=TARGET, reviewer="ana")
    found = {"queue_ms": middle(lambda: queue.waiting(None, 16)), "view_ms": middle(lambda: desk.view({}))}
    desk.close()
    row = (f"{len(half):,} of {len(manifest):,}", f"{found['queue_ms']:.2f}", f"{found['view_ms']:.2f}")
    print_table(("decided", "queue: median ms", "all of the page: median ms"), [row])
    return found


def middle(query: Callable[[], object]) -> float:
    """Median ms of many calls."""
    times = []
    for _ in range(QUERIES):
        began = time.perf_counter()
        query()
        times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times))


async def measure_kills(folder: Path, kills: int, browser_kills: int) -> dict[str, Any]:
    """Two servers and a browser at a time, each with a data set of its own: they wait for each other's ends anyway."""
    print(f"{kills} kills of the server, {browser_kills} of the browser ...", flush=True)
    parts = [folder / name for name in ("one", "two", "profile")]
    for part in parts:
        part.mkdir()
    async with asyncio.TaskGroup() as group:
        one = group.create_task(kill_servers(parts[0], kills - kills // 2, seed=1))
        two = group.create_task(kill_servers(parts[1], kills // 2, seed=2))
        three = group.create_task(kill_browsers(parts[2], browser_kills, seed=3))
    servers = Account(*map(sum, zip(one.result(), two.result(), strict=True)))
    browsers = three.result()
    rows = [
        ("server", str(kills), *map(str, servers)),
        ("browser", str(browser_kills), *map(str, browsers)),
    ]
    print_table(("killed", "times", "decisions saved", "met in the outbox", "lost", "doubled"), rows)
    return {
        "lost": servers.lost + browsers.lost,
        "doubled": servers.doubled + browsers.doubled,
        "saved": servers.saved + browsers.saved,
        "resent": browsers.resent,
    }


if __name__ == "__main__":
    main()
