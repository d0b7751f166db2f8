"""Bytes that came and are not in the ledger yet: a run that is killed fetches nothing twice."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)  # Windows would change line ends


class Arrivals:
    """The arrivals of one class, each a file named by the address it came from, below the data root.

    For the threads of one process, which has the class to itself. Written with as few calls of the system as can be: of
    many threads each call is a place where another one takes over.
    """

    def __init__(self, root: Path, label: str) -> None:
        self.root = root
        self.folder = root / "arrivals" / _digest(label)[:16]
        self._left: set[str] = set()

    def open(self, wanted: Iterable[str]) -> None:
        """Make the folder, and see what earlier runs left there; what no address of `wanted` waits for is deleted.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._left = {path.name for path in self.folder.iterdir()}
        if self._left:
            unwanted = self._left - {_digest(url) for url in wanted}
            for name in unwanted:
                (self.folder / name).unlink(missing_ok=True)
            self._left -= unwanted

    def came_before(self, url: str) -> bool:
        """Whether its bytes came in an earlier run."""
        return _digest(url) in self._left

    def path(self, url: str) -> str:
        """The file with the bytes that came from an address."""
        return f"{self.folder}/{_digest(url)}"

    def keep(self, url: str, data: bytes) -> None:
        """Write the bytes down, in one atomic step, on disk when this returns.

        Raises:
            OSError: the disk is full, or must not be written to.
        """
        path = self.path(url)
        temporary = f"{path}.tmp"
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY, 0o666)
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(file, left) :]
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def store(self, url: str, file_name: str) -> bool:
        """Move what arrived to its place in the image store; False where nothing had arrived."""
        arrived, path = self.path(url), f"{self.root}/{file_name}"
        for _ in range(2):
            try:
                os.replace(arrived, path)  # noqa: PTH105
                return True
            except FileNotFoundError:  # of the one, or of the other's folder
                Path(path).parent.mkdir(parents=True, exist_ok=True)
        return False

    def discard(self, url: str) -> None:
        """Nobody needs these bytes."""
        Path(self.path(url)).unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
