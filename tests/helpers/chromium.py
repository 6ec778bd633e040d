"""A headless Chromium, spoken to over its pipe (the DevTools protocol), without its network."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Page:
    """One page; a context manager that ends the browser.

    Args:
        profile: an empty folder for the browser's own files.

    Attributes:
        requests: the addresses that were asked for since the page was opened.
        complaints: what stood in its console.
    """

    def __init__(self, profile: Path) -> None:
        (ours_in, theirs_out), (theirs_in, ours_out) = os.pipe(), os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        words += ["--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # the protocol is read from descriptor 3 and answered on 4
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", CHROMIUM, *words, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.reader, self.writer = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self.number, self.session, self.rest = 0, None, b""
        self.requests: list[str] = []
        self.complaints: list[str] = []
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
        self.writer.close()  # the browser ends with its pipe
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.close()

    def call(self, method: str, **parameters: object) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while True:
            answer = self.next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def next(self) -> dict:
        while b"\0" not in self.rest:
            chunk = self.reader.read1(1 << 20)
            assert chunk, "the browser ended"
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.complaints.append(json.dumps(message["params"]))
            case "Page.loadEventFired":
                self.loaded = True
        return message

    def open(self, file: Path, **metrics: object) -> None:
        if metrics:
            screen = {"deviceScaleFactor": 1, "mobile": False, **metrics}
            self.call("Emulation.setDeviceMetricsOverride", **screen)
        self.file, self.loaded, self.requests, self.complaints = file, False, [], []
        self.call("Page.navigate", url=file.absolute().as_uri())
        while not self.loaded:
            self.next()

    def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression, or of what it promises."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left",
            buttons=0 if kind == "mouseReleased" else 1,
            clickCount=1,
        )

    def draw(self, points: list[tuple[float, float]]) -> None:
        """One line with the mouse, through points in pixels of the window."""
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *points[-1])

    def picture(self, file: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
