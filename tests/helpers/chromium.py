"""A headless, offline Chromium, controlled by the DevTools protocol over a pipe."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from helpers.programs import require

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Page:
    """A page in a browser; a context manager that closes the browser.

    Args:
        profile: an empty folder for the browser's profile.

    Attributes:
        requests: the URLs requested since the page was opened.
        messages: exceptions and messages in the console since then.
    """

    def __init__(self, profile: Path) -> None:
        program = require("chromium", "chromium-browser", "google-chrome")
        (read_end, browser_write_end), (browser_read_end, write_end) = os.pipe(), os.pipe()
        # the browser reads commands from descriptor 3 and writes results to 4
        script = f'exec "$@" 3<&{browser_read_end} 4>&{browser_write_end}'
        command = [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(browser_read_end, browser_write_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_read_end)
        os.close(browser_write_end)
        self.reader, self.writer = os.fdopen(read_end, "rb"), os.fdopen(write_end, "wb")
        self.call_id, self.session, self.buffer = 0, None, b""
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.loaded = False
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=0,
            uploadThroughput=0,
        )

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()  # the browser exits when the pipe is closed
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.close()

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        self.call_id += 1
        message = {"id": self.call_id, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while True:
            reply = self.receive()
            if reply.get("id") == self.call_id:
                assert "error" not in reply, reply["error"]
                return reply["result"]

    def receive(self) -> dict[str, Any]:
        """Wait for the next message, a result or an event."""
        while b"\0" not in self.buffer:
            chunk = self.reader.read1(1 << 20)
            assert chunk, "the browser exited"
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.messages.append(json.dumps(message["params"]))
            case "Page.loadEventFired":
                self.loaded = True
        return message

    def open(self, file: Path, width: int, height: int) -> None:
        """Load a file in a window of the given size, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.url, self.loaded = file.absolute().as_uri(), False
        self.requests, self.messages = [], []
        self.call("Page.navigate", url=self.url)
        while not self.loaded:
            self.receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        reply = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def mouse(self, event: str, x: float, y: float) -> None:
        """Dispatch a mouse event at a position in CSS pixels."""
        self.call(
            "Input.dispatchMouseEvent",
            type=event,
            x=x,
            y=y,
            button="left",
            buttons=0 if event == "mouseReleased" else 1,
            clickCount=1,
        )

    def draw(self, points: list[tuple[float, float]]) -> None:
        """Draw a line through points with the mouse."""
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *points[-1])
