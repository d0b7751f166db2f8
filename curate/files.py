"""Files: written whole or not at all, and never outside the folder they belong to."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from curate.errors import CurateError

HOST = socket.gethostname()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write; it takes the place of `path` at the end, or is gone on an error.

    What a killed process leaves behind, `is_leftover` recognises.
    """
    temporary = path.with_name(f".{path.name}~{HOST}~{os.getpid()}~{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """As `replacing`, for a file that a user asked for; its folder is made.

    Raises:
        CurateError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise CurateError(
            f"{path}: cannot be written: {error.strerror or error}. Make room or allow writing there, then run the "
            "same command again."
        ) from error


def is_leftover(path: Path) -> bool:
    """Whether this is a temporary file of a process of this machine that is no more."""
    parts = path.name.split("~")
    if len(parts) != 4 or not path.name.endswith(".tmp") or parts[1] != HOST:
        return False
    try:
        if os.name == "nt":
            return False  # there a signal of 0 is no question but Ctrl-C
        os.kill(int(parts[2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it lives, and is somebody else's
    return False


def is_inside(file_name: str) -> bool:
    """Whether a relative path stays below the folder it is joined to."""
    path = PurePosixPath(str(file_name).replace("\\", "/"))
    drive = re.match(r"^[A-Za-z]:", str(file_name))
    return not (path.is_absolute() or drive or ".." in path.parts or "\0" in str(file_name))
