"""Show images in the browser, at a page that this machine alone can open."""

import secrets
import sys
import threading
import time
import webbrowser
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from jaxtyping import UInt8

from prophet_gym._io.pictures.panels import side_by_side

PATIENCE = 5.0
"""Seconds to wait for a browser that was asked to open the page."""
SIDE = 384
"""About how many pixels high a frame is shown."""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>prophet</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>body {{ margin: 0; background: #14161a }} img {{ display: block; margin: 2vh auto; max-width: 96vw;
height: 94vh; object-fit: contain }}</style><img src="/{token}/frames" alt="What the env shows"></html>"""


class Viewer:
    """Show images at their rate in a page, which opens with the first of them.

    `show` returns once the images before these were shown, so an env that is faster waits, and one that is slower
    generates a chunk while the one before is seen.

    Attributes:
        url: Address of the page; it has a secret.
    """

    def __init__(self, fps: float) -> None:
        """Start the page's server, on a free port of the loopback address."""
        self._span, self._token = 1 / fps, secrets.token_urlsafe(16)
        self._waiting: deque[bytes] = deque()
        self._image, self._count, self._watchers, self._closed = b"", 0, 0, False
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"viewer": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/{self._token}"
        for work in (self._server.serve_forever, self._play):
            threading.Thread(target=work, name="prophet-viewer", daemon=True).start()
        print(f"see the env at {self.url}", file=sys.stderr, flush=True)  # noqa: T201 where no browser opens by itself
        if webbrowser.open(self.url):
            with self._changed:
                self._changed.wait_for(lambda: self._watchers, PATIENCE)

    def show(self, videos: Mapping[str, Sequence[UInt8[np.ndarray, "h w 3"]]]) -> None:
        """Show videos side by side, each under its label, once what waits was shown; one that ends sooner rests."""
        import cv2

        scale = max(1, round(SIDE / next(iter(videos.values()))[0].shape[0]))
        images = [
            side_by_side({label: video[min(moment, len(video) - 1)] for label, video in videos.items()}, "", scale)
            for moment in range(max(map(len, videos.values())))
        ]
        encoded = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._closed)
            self._waiting.extend(encoded)
            self._changed.notify_all()

    def close(self) -> None:
        """Show what waits, and end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._closed)
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def __deepcopy__(self, memo: Any) -> "Viewer":
        """Return the viewer itself: a copied env shows its images at the same page."""
        del memo
        return self

    def page(self, path: str) -> str | None:
        """Return the page at its address, None elsewhere."""
        return PAGE.format(token=self._token) if path == f"/{self._token}" else None

    def images(self, path: str) -> Iterator[bytes]:
        """Yield PNG files, each when its time has come; none at another address than that of the page's image."""
        seen = -1
        with self._changed:
            if path != f"/{self._token}/frames" or self._closed:
                return
            self._watchers += 1
            self._changed.notify_all()
        while (found := self._after(seen)) is not None:
            seen, image = found
            yield image

    def _after(self, seen: int) -> tuple[int, bytes] | None:
        """Wait for an image with another number than `seen`; return the newest with its number, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._image and self._count != seen))
            # The last image counts too: `close` may have been faster than the thread that sends it.
            return (self._count, self._image) if self._image and self._count != seen else None

    def _play(self) -> None:
        due = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._image, self._count = self._waiting.popleft(), self._count + 1
                self._changed.notify_all()
            due = max(due + self._span, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


class _Handler(BaseHTTPRequestHandler):
    viewer: Viewer

    def do_GET(self) -> None:
        """Answer with the page or its images."""
        page = self.viewer.page(self.path)
        if page is not None:
            self._begin("text/html; charset=utf-8")
            self.wfile.write(page.encode())
            return
        images = self.viewer.images(self.path)
        first = next(images, None)
        if first is None:
            self.send_error(404)
            return
        with suppress(OSError):  # the page was closed
            self._begin("multipart/x-mixed-replace; boundary=image")
            self._send(first)
            for image in images:
                self._send(image)

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _send(self, image: bytes) -> None:
        # Twice: browsers show a part when the next one begins.
        for _ in range(2):
            self.wfile.write(b"--image\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(image))
            self.wfile.write(image + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""
