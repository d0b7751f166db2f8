"""What a command shows while it works and when it is done: progress and tables, on a terminal and in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

FEW = 40  # with fewer things to do than this, a log has one line, at the end


@contextmanager
def progress_bars() -> Iterator["Bars"]:
    """Bars on a terminal; in a log one plain line for each quarter of the way."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bars:
        yield Bars(bars, console)


class Bars:
    """Called with what is being done, how much is done, and how much there is."""

    def __init__(self, bars: Progress, console: Console) -> None:
        self.bars, self.console = bars, console
        self.tasks: dict[str, TaskID] = {}
        self.quarters: dict[str, int] = {}
        self.counts: dict[str, tuple[float, int, int]] = {}  # when it began, and what was done then and last

    def __call__(self, what: str, done: int, total: int) -> None:
        """Draw, or print a line when another quarter is done, with the rate and the time left."""
        rate = self._rate(what, done)
        if not self.bars.disable:
            if what not in self.tasks:
                self.tasks[what] = self.bars.add_task(what, total=total, rate="")
            told = f"{rate:.3g}/s" if rate else ""
            self.bars.update(self.tasks[what], completed=done, total=total, rate=told)
            return
        quarter = 4 * done // total if total else 4
        if self.quarters.get(what, 0) != quarter and (total >= FEW or done == total):
            self.quarters[what] = quarter
            left = f", {rate:.3g}/s, {(total - done) / rate:.0f} s left" if rate and done < total else ""
            self.console.print(f"{what}: {done} of {total}{left}", highlight=False)

    def _rate(self, what: str, done: int) -> float:
        """A second, since this was first told of; 0 as long as nothing was done since. A new count begins anew."""
        now = time.monotonic()
        began, first, last = self.counts.get(what, (now, done, done))
        if done < last:
            began, first = now, done
        self.counts[what] = (began, first, done)
        return (done - first) / max(now - began, 1e-9)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table on standard output; what came from the web is text in it, never markup."""
    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
