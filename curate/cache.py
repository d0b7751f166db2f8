"""What was computed of an image, kept by its content: delete `cache/` at any time, and it is made again."""

import json
import logging
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from curate.files import replacing

log = logging.getLogger("curate")
CHUNK = 256  # rows of a file
OPEN = 64  # files that stay open
DAMAGED = (  # what numpy and zipfile raise of files that are cut, overwritten or have flipped bits
    *(OSError, ValueError, KeyError, EOFError, NotImplementedError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


class RowCache:
    """Arrays of one shape by text key, in append-only chunks: `<name>.npy` (memory-mapped) and its keys beside it.

    A chunk counts from the moment its key file is there, so that a killed process leaves nothing half-written behind.
    Two processes may append at once. A chunk that cannot be read is as if it were not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[str, tuple[Path, int]] = {}
        self._pending: list[tuple[str, np.ndarray]] = []
        self._open: dict[Path, np.ndarray] = {}
        for keys in sorted(folder.glob("*.json")):
            self._read(keys)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def append(self, keys: list[str], rows: np.ndarray) -> None:
        """Keep rows (n, ...) under their n keys; on disk after `flush`, which happens by itself every 256 rows."""
        self._pending += zip(keys, rows, strict=True)
        if len(self._pending) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what was appended; from then on it can be taken."""
        if not self._pending:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{os.urandom(8).hex()}.npy"
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.stack([row for _, row in self._pending]))
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps([key for key, _ in self._pending]))
        self._pending = []
        self._read(path.with_suffix(".json"))

    def take(self, keys: list[str]) -> np.ndarray:
        """The rows of these keys, (n, ...); KeyError for a key that is not there."""
        places: dict[Path, list[tuple[int, int]]] = {}
        for number, key in enumerate(keys):
            path, row = self._where[key]
            places.setdefault(path, []).append((number, row))
        out: np.ndarray | None = None
        for path, wanted in places.items():
            numbers, rows = map(list, zip(*wanted, strict=True))
            kept = self._mapped(path)
            out = np.empty((len(keys), *kept.shape[1:]), kept.dtype) if out is None else out
            out[numbers] = kept[rows]
        if out is None:
            raise KeyError("no keys")
        return out

    def _mapped(self, path: Path) -> np.ndarray:
        """A chunk; some stay open, not all: a process may have a thousand files open. Threads may take at once."""
        kept = self._open.get(path)
        if kept is None:
            kept = np.load(path, mmap_mode="r")
            for other in list(self._open)[: len(self._open) - OPEN + 1]:
                self._open.pop(other, None)
            self._open[path] = kept
        return kept

    def _read(self, keys: Path) -> None:
        path = keys.with_suffix(".npy")
        try:
            names = json.loads(keys.read_text())
            rows = np.load(path, mmap_mode="r")
        except DAMAGED as error:
            log.warning("%s: this part of the cache is damaged and is made again: %s", keys, error)
            return
        if len(names) == len(rows):
            self._where.update({name: (path, row) for row, name in enumerate(names)})
