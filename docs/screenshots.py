"""The pictures of the review app in README and in this folder, made anew.

    make demo screenshots

Shows what `make demo` left: rendered pictures, the first of its decisions, and a second opinion on some of them.
"""

import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from curate.ledger import Decision, Ledger

DOCS, DEMO = Path(__file__).parent, Path("demo")
DECIDED = 150  # of the demo's decisions, the ones that the pictures show as made
SECOND = 90  # of those, the ones that a second reviewer judged too; on every eighth the two disagree
COLOURS = 200  # of a picture, which makes it a fifth as large
CURATE = [sys.executable, "-c", "from curate.cli import main; main()"]


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not (DEMO / "audited.csv").exists() or not chromium:
        raise SystemExit("this needs what `make demo` leaves in demo/, and Chromium (`make chromium`).")
    subprocess.run([*CURATE, "shortcuts", "demo/audited.csv", "--data", "demo/data"], check=True)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        ledger, port = Path(folder) / "ledger.db", free.getsockname()[1]
        free.close()
        decide_some(ledger)
        review = ["review", "demo/audited.csv", "--data", "demo/data", "--ledger", str(ledger), "--recipe"]
        review += ["demo/igneous.toml", "--runs", "demo/runs", "--port", str(port), "--no-browser", "--reviewer", "ana"]
        server = subprocess.Popen([*CURATE, *review], stdout=subprocess.PIPE, text=True)
        try:
            print(server.stdout and server.stdout.readline(), end="")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                look = {"viewport": {"width": 1280, "height": 720}, "reduced_motion": "reduce"}
                photograph(browser.new_page(**look), f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait()


def decide_some(ledger: Path) -> None:
    """The demo's ledger with its first decisions, and opinions of bo on them."""
    with closing(sqlite3.connect(DEMO / "data/ledger.db")) as demo, closing(sqlite3.connect(ledger)) as copy:
        demo.backup(copy)
        copy.execute("DELETE FROM decisions WHERE position > ?", (DECIDED,))
        copy.execute("UPDATE decisions SET reviewer = 'ana'")
        copy.commit()
    with Ledger(ledger) as book:
        for n, (image_id, said) in enumerate(book.standing().head(SECOND).iterrows()):
            verdict = said["verdict"] if n % 8 else "accept" if said["verdict"] == "reject" else "reject"
            reason = None if verdict != "reject" else said["reason"] if n % 8 else "background"
            label = said["label"] if verdict == "relabel" else None
            book.opine([Decision(str(image_id), verdict, reason, label, said["decision_id"], reviewer="bo")])


def photograph(page: Page, url: str) -> None:
    """Each page, with something done on it."""
    page.set_default_timeout(60_000)
    page.goto(url)
    page.evaluate("localStorage.setItem('deeprock/look/guide', 'read')")
    page.evaluate("""localStorage.setItem('deeprock/look/wanted', '{"order": "informative"}')""")
    page.goto(url)
    page.wait_for_selector('.review[data-ready="true"]')
    page.locator(".why h2").wait_for()
    save(page, "review")
    page.evaluate("localStorage.removeItem('deeprock/look/wanted')")
    page.goto(f"{url}/grid")
    page.wait_for_selector('.grid[data-ready="true"]')
    page.locator(".tile").nth(1).click()
    page.locator(".tile").nth(4).click(modifiers=["Shift"])
    save(page, "grid")
    page.goto(f"{url}/duplicates")
    page.wait_for_selector('.duplicates[data-ready="true"]')
    save(page, "duplicates")
    page.goto(f"{url}/shortcuts")
    page.locator(".carriers").first.wait_for()
    page.get_by_test_id("stDataFrame").locator("canvas").nth(1).wait_for(state="attached")
    page.wait_for_function("[...document.querySelectorAll('.carriers img')].every(image => image.complete)")
    save(page, "shortcuts")
    page.goto(f"{url}/classes")
    page.get_by_test_id("stVegaLiteChart").locator("canvas, svg").first.wait_for()
    save(page, "classes")
    page.goto(f"{url}/second-opinion")
    page.wait_for_selector('.second[data-ready="true"]')
    page.get_by_role("button", name="Agreement").click()
    page.wait_for_selector('.second[data-ready="true"][data-part="agreement"]')
    save(page, "second-opinion")
    page.goto(f"{url}/contribute")
    page.locator("input[type=file]").set_input_files(sorted((DEMO / "data/images").rglob("*.jpg"))[:2])
    page.get_by_test_id("stFileChip").nth(1).wait_for()
    save(page, "contribute")
    page.goto(f"{url}/identify")
    page.locator("input[type=file]").set_input_files(sorted((DEMO / "data/images").rglob("*.jpg"))[7])
    page.get_by_text("The run divides all its belief").wait_for()
    save(page, "identify")
    page.goto(f"{url}/help")
    page.wait_for_selector('.help[data-ready="true"]')
    save(page, "help")


def save(page: Page, name: str) -> None:
    """A picture of the window, once all its images are there."""
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    page.wait_for_load_state("networkidle")
    path = DOCS / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
    small.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
