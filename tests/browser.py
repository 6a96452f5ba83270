"""Chromium without a window, asked over the two pipes that it opens for a program that starts it."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Page:
    """A page that is loaded, and what it asked for and complained of."""

    def __init__(self, send: int, receive: Any) -> None:
        self._send, self._receive, self._count, self._session = send, receive, 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of Chromium's protocol and return its result; what happens meanwhile goes to `events`."""
        self._count += 1
        asked = {"id": self._count, "method": method, "params": parameters}
        os.write(
            self._send, json.dumps(asked | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path | str, width: int, *, dark: bool = False, still: bool = False) -> None:
        """Load a file or an address in a window of this width, of a phone if it is narrow; `still`: reduced motion."""
        self.events.clear()
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        wanted = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def key(self, code: str, name: str, *, down: bool) -> None:
        """Press or release a key, by its place on the keyboard and what it types."""
        self.call("Input.dispatchKeyEvent", type="keyDown" if down else "keyUp", code=code, key=name)

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """Return the value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"it did not happen in time: {expression}"
            time.sleep(0.02)
        return found

    def screenshot(self, path: Path) -> None:
        """Write an image of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def happened(self, *methods: str) -> list[dict[str, Any]]:
        """Return what happened since the page was asked for, of these kinds."""
        self.value("0")  # what came before has come then
        return [event["params"] for event in self.events if event.get("method") in methods]

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._receive.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended")
            text += byte
        return json.loads(text)


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Start Chromium with a profile in this folder."""
    assert CHROMIUM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def as_three_and_four() -> None:
        one, two = os.dup(theirs_in), os.dup(theirs_out)  # neither may be overwritten before it is copied
        os.dup2(one, 3)
        os.dup2(two, 4)

    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--remote-debugging-pipe",
    ]
    process = subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={folder}"],
        pass_fds=(3, 4),
        preexec_fn=as_three_and_four,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        with os.fdopen(ours_in, "rb") as receive:
            yield Page(ours_out, receive)
    finally:
        os.close(ours_out)
        process.terminate()
        process.wait()
