"""The loopback web: search engines and image hosts on 127.0.0.1, for tests, demonstrations and benchmarks."""

from tests.web.faults import Faults, Photo
from tests.web.server import LoopbackWeb, demo_photos, folder_photos

__all__ = ["Faults", "LoopbackWeb", "Photo", "demo_photos", "folder_photos"]
