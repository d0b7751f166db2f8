"""The files in what a person hands over, a file, a folder or a zip, read one after the other and written nowhere.

A zip is read member by member, in memory and under caps; nothing is ever unpacked by name, and a zip that is hostile is
refused before its first member is read.
"""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from curate.errors import CurateError
from curate.files import is_inside
from curate.sources import clean_text

CHUNK = 1_000_000  # bytes decompressed at a time
MAX_MEMBERS = 50_000  # of one zip
MAX_DIRECTORY = 10_000_000  # bytes of a zip's table of contents
MAX_TOTAL = 20_000_000_000  # bytes that a zip may hold, decompressed
MAX_RATIO = 200  # decompressed over compressed; photographs have about 1
SMALL = 1_000_000  # bytes; what is smaller may be compressed as far as it goes
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")
CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini")
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


class File(NamedTuple):
    """One file of a contribution.

    Attributes:
        name: its path within what was given: untrusted text, never opened.
        data: its bytes, or None where they are not taken; then `state` and `cause` say why.
    """

    name: str
    data: bytes | None
    state: str = ""
    cause: str = ""


@contextmanager
def opened(path: Path, max_bytes: int) -> Iterator[tuple[int, Iterable[File]]]:
    """How many files are given, and their bytes one after the other, hidden ones and clutter left out.

    Links that lead out of a folder are not followed, archives in it and in a zip not opened.

    Args:
        path: an image, a folder with all folders in it, or a zip.
        max_bytes: of one file; of what is larger no more is read.

    Raises:
        CurateError: no such path, or one that cannot be read; a zip that is damaged, hostile or beyond the limits.
    """
    if path.is_dir():
        yield sum(1 for _ in _walk(path)), (_read_below(path, found, max_bytes) for found in _walk(path))
    elif not path.is_file():
        raise CurateError(f"{path}: no such file or folder. `curate add` takes an image, a folder of them, or a zip.")
    elif _is_zip(path):
        with _open_zip(path) as archive:
            members = _members(archive, path)
            yield len(members), (_read_member(archive, member, max_bytes) for member in members)
    else:
        yield 1, iter([_read(path, path.name, max_bytes)])


def one_line(text: str) -> str:
    """A name as text that any database holds and any terminal shows: names of files need not be valid Unicode."""
    return clean_text(text.encode("utf-8", "replace").decode("utf-8"))


def _walk(root: Path) -> Iterator[Path]:
    """The files below a folder in order, and the links that lead out of it; links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise CurateError(f"{error.filename}: the folder cannot be read: {error.strerror}.") from error

    for here, folders, names in os.walk(root, onerror=fail):
        links = [name for name in folders if (Path(here) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if not _is_clutter(name) and name not in links)
        out = [name for name in links if not _is_below(root, Path(here) / name)]
        yield from (Path(here) / name for name in sorted([*names, *out]) if not _is_clutter(name))


def _read_below(root: Path, path: Path, max_bytes: int) -> File:
    name = path.relative_to(root).as_posix()
    if path.is_symlink() and not _is_below(root, path):
        return File(name, None, "refused", "a link that leads outside the folder")
    return _read(path, name, max_bytes)


def _read(path: Path, name: str, max_bytes: int) -> File:
    if path.suffix.lower() in ARCHIVES:
        return File(name, None, "refused", "an archive: unpack it, or add a zip by itself")
    try:
        if not path.is_file():
            return File(name, None, "failed", "no regular file")
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        return File(name, None, "failed", f"unreadable file: {error.strerror}")
    if len(data) > max_bytes:
        return File(name, None, "refused", "too large")
    return File(name, data) if data else File(name, None, "failed", "empty")


def _is_below(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def _is_clutter(name: str) -> bool:
    """Hidden, or left behind by a system."""
    return (name.startswith(".") and name != ".") or name == "__MACOSX" or name.casefold() in CLUTTER


class _BoundedFile(io.BufferedReader):
    """A zip on disk, whose table of contents, which `zipfile` reads at once, can only be so large."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its table of contents has more than {MAX_DIRECTORY:,} bytes")
        return super().read(size)


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return path.suffix.lower() == ".zip" or stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError as error:
        raise CurateError(f"{path}: cannot be read: {error.strerror}.") from error


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with _BoundedFile(io.FileIO(path)) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except BROKEN_ZIP as error:
            raise CurateError(f"{path}: not a zip that can be read: {clean_text(str(error))}.") from error
        with archive:
            yield archive


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The files in a zip in their order, without clutter.

    Raises:
        CurateError: the zip as a whole is not to be trusted; names the first member that tells.
    """
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise CurateError(f"{path}: refused: {len(members):,} files in one zip; at most {MAX_MEMBERS:,} are opened.")
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL:
        raise CurateError(f"{path}: refused: it would unpack to {total:,} bytes; at most {MAX_TOTAL:,} are opened.")
    for member in members:
        if fault := _fault(member):
            raise _hostile(path, member, fault)
    _refuse_overlaps(archive, path, members)
    return [m for m in members if not m.is_dir() and not any(map(_is_clutter, _inner_path(m).split("/")))]


def _inner_path(member: zipfile.ZipInfo) -> str:
    return member.filename.replace("\\", "/")


def _fault(member: zipfile.ZipInfo) -> str:
    """Why a zip with this member is refused; empty where nothing speaks against it."""
    if not member.filename:
        return "has no name"
    if not (is_inside(member.orig_filename) and is_inside(member.filename)):
        return "leads outside the archive"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 0x2041:  # encrypted, strongly encrypted, table of contents encrypted
        return "is encrypted"
    if member.file_size > max(SMALL, MAX_RATIO * member.compress_size):
        return f"would unpack from {member.compress_size:,} to {member.file_size:,} bytes"
    return ""


def _refuse_overlaps(archive: zipfile.ZipFile, path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Bombs let many members share the same compressed bytes (Fifield, "A better zip bomb", WOOT 2019)."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise _hostile(path, member, "shares its bytes with another")
        header = _local_header(archive, member)
        if not header.startswith(b"PK\x03\x04"):
            raise _hostile(path, member, "is not where the table of contents says: the zip is damaged")
        end = member.header_offset + len(header) + sum(struct.unpack("<HH", header[26:30])) + member.compress_size
        if end > archive.start_dir:
            raise _hostile(path, member, "reaches beyond the end")


def _local_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The 30 bytes before a member's name; empty where there are not as many."""
    if archive.fp is None or not 0 <= member.header_offset < archive.start_dir:
        return b""
    archive.fp.seek(member.header_offset)
    header = archive.fp.read(30)
    return header if len(header) == 30 else b""


def _hostile(path: Path, member: zipfile.ZipInfo, fault: str) -> CurateError:
    name = one_line(member.orig_filename)[:100]
    return CurateError(f"{path}: refused, nothing is taken: {name!r} {fault}.")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> File:
    name = _inner_path(member)
    if name.lower().endswith(ARCHIVES):
        return File(name, None, "refused", "an archive within the archive is not opened")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others decompress without a limit
        return File(name, None, "refused", "compressed in a way that is not opened: use deflate, the usual one")
    if member.file_size > max_bytes:
        return File(name, None, "refused", "too large")
    parts, size = [], 0
    try:
        with archive.open(member) as stream:
            while part := stream.read(CHUNK):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    return File(name, None, "refused", "too large")
    except BROKEN_ZIP:
        return File(name, None, "failed", "damaged in the archive")
    return File(name, b"".join(parts)) if parts else File(name, None, "failed", "empty")
