"""A headless Chromium (Debian's package chromium), driven through the pipes of its DevTools protocol."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# WebGL on the processor; root, as in a container, has no sandbox
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
]
DEADLINE = 120.0  # seconds until a page that doesn't answer counts as hung


class Chromium:
    """One page of a running browser.

    Attributes:
        complaints: errors and warnings that the page has written to its console, exceptions included.
        requests: addresses that it has asked for, but for data: and blob:.
    """

    def __init__(self, answers: int, commands: int) -> None:
        self._answers, self._commands, self._left, self._number = answers, commands, b"", 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str, *, width: int = 1400, height: int = 900, dark: bool = False) -> float:
        """Open a page; returns the seconds until it has loaded."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        begun = time.monotonic()
        self._call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        return time.monotonic() - begun

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + DEADLINE
        while not self.run(script):
            assert time.monotonic() < deadline, f"not true after {DEADLINE:.0f} s: {script}"
            time.sleep(0.05)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of what is visible, or of the whole page."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True} if whole else {}
        data = self._call("Page.captureScreenshot", format="png", **clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        """Print the page."""
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF", landscape=True)["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._read()).get("id") != self._number:
            self._note(message)
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser has ended"
            self._left += data
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        found = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = found["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if found["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in found["args"]))
            case "Log.entryAdded" if found["entry"]["level"] == "error":
                self.complaints.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")
            case "Network.requestWillBeSent" if not found["request"]["url"].startswith(("data:", "blob:")):
                self.requests.append(found["request"]["url"])


@contextlib.contextmanager
def chromium() -> Iterator[Chromium]:
    """Start a browser, with a profile of its own.

    Raises:
        FileNotFoundError: none is installed.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise FileNotFoundError("no Chromium: apt-get install chromium")
    command_out, command_in = os.pipe()
    answer_out, answer_in = os.pipe()

    def connect() -> None:  # the browser reads from descriptor 3 and writes to 4
        ours = [os.dup2(descriptor, descriptor + 100) for descriptor in (command_out, answer_in)]
        for descriptor, number in zip(ours, (3, 4), strict=True):
            os.dup2(descriptor, number)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *ARGUMENTS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, preexec_fn=connect, close_fds=False, stderr=subprocess.DEVNULL)
        try:
            for descriptor in (command_out, answer_in):
                os.close(descriptor)
            yield Chromium(answer_out, command_in)
        finally:
            process.terminate()
            process.wait(20)
            for descriptor in (answer_out, command_in):
                os.close(descriptor)
