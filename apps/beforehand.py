"""Thumbnails and overlays made before anybody asks: a quiet thread that steps back while the server is busy."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.pictures import (
    heatmap_name,
    make_overlay,
    make_thumbnail,
    overlay_name,
    predicted_heatmap_name,
    thumbnail_name,
)
from curate.errors import CurateError
from curate.store import ImageError

QUIET_S = 1.0  # without a request or a message of a page, before the next picture is made
LOOKED_AT = 500  # images that are looked at for what is missing before it steps back
LONGEST_WAIT_S = 5.0  # for that: a server that is never quiet still gets a picture now and then


class Activity:
    """When the server was last asked for something."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def note(self) -> None:
        """Something was asked now."""
        self.last = time.monotonic()

    def quiet_in(self) -> float:
        """Seconds until nothing has been asked for QUIET_S."""
        return max(0.0, self.last + QUIET_S - time.monotonic())


class Watched:
    """ASGI middleware that notes each request, and each message that a page sends by WebSocket."""

    def __init__(self, app: ASGIApp, activity: Activity) -> None:
        self.app, self._activity = app, activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""

        async def receive_noted() -> Message:
            message = await receive()
            self._activity.note()
            return message

        self._activity.note()
        await self.app(scope, receive_noted if scope["type"] == "websocket" else receive, send)


class Beforehand:
    """Makes what is missing of the thumbnails and overlays of a manifest, in a thread of its own.

    It waits for pauses and has no lower priority: on a busy machine a thread that is put off while it holds Python's
    lock holds up every request (12 ms instead of 3 for an image, where this costs nothing that can be measured).

    `made` counts pictures.
    """

    def __init__(
        self, root: Path, file_names: Mapping[str, str], first: Callable[[], Iterable[str]], activity: Activity
    ) -> None:
        """Say what to make; `start` begins.

        Args:
            root: the data root.
            file_names: `file_name` by `image_id`.
            first: the images that are wanted first, asked for in the thread; the others follow as in `file_names`.
            activity: of the server that is not to be disturbed.
        """
        self._root, self._file_names, self._first, self._activity = root, file_names, first, activity
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pictures beforehand", daemon=True)
        self.made = 0
        self._failed: set[str] = set()

    @property
    def failed(self) -> int:
        """Images of which a picture cannot be made: missing, damaged, outside the data root."""
        return len(self._failed)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self) -> None:
        """Until all is made."""
        self._thread.join()

    def close(self) -> None:
        """Stop after the picture that is being made."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self._let_others_go_first()
        for image_id in self._missing():
            self._let_others_go_first()
            if self._closing.is_set():
                return
            if not self._make(image_id):
                return  # the disk takes nothing: whoever asks gets it made for himself

    def _missing(self) -> Iterator[str]:
        """Images without a thumbnail, or with a heatmap that has no overlay of the same moment."""
        for n, image_id in enumerate(chain(self._first(), self._file_names)):
            if n % LOOKED_AT == 0:
                self._let_others_go_first()
            if image_id in self._file_names and image_id not in self._failed and self._lacks(image_id):
                yield image_id

    def _lacks(self, image_id: str) -> bool:
        heats = [name(image_id) for name in (heatmap_name, predicted_heatmap_name)]
        stale = (_stamp(self._root / heat) not in (0, _stamp(self._root / overlay_name(heat))) for heat in heats)
        return not _stamp(self._root / thumbnail_name(image_id)) or any(stale)

    def _make(self, image_id: str) -> bool:
        """One image's pictures; whether they could be kept."""
        try:
            make_thumbnail(self._root, image_id, self._file_names[image_id])
            self.made += 1
            for heat in (heatmap_name(image_id), predicted_heatmap_name(image_id)):
                if (self._root / heat).is_file():
                    make_overlay(self._root, heat)
                    self.made += 1
        except (CurateError, ImageError, OSError):
            self._failed.add(image_id)
            return True
        return (self._root / thumbnail_name(image_id)).is_file()

    def _let_others_go_first(self) -> None:
        patience = time.monotonic() + LONGEST_WAIT_S
        while (wait := min(self._activity.quiet_in(), patience - time.monotonic())) > 0:
            if self._closing.wait(wait):
                return


def _stamp(file: Path) -> int:
    """Modification time in ns; 0 where there is no file."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
