"""A headless Chromium for tests, over the DevTools protocol.

The protocol is spoken through a pair of pipes (`--remote-debugging-pipe`: JSON messages, each ended by a zero byte), so
that no port is open and no driver or client package is needed. The network is off. https://chromedevtools.github.io/
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60.0


def require_browser() -> str:
    """The browser's path. Skips the test where there is none; under BLL_REQUIRE_BROWSER=1, as in CI, fails it."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    reason = f"there is no browser ({' or '.join(PROGRAMS)}): apt-get install chromium"
    if not found and os.environ.get("BLL_REQUIRE_BROWSER") == "1":
        pytest.fail(f"BLL_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
    if not found:
        pytest.skip(reason)
    return str(found)


class BrowserError(Exception):
    """The browser refused a command, a script threw, or it did not answer in time."""


class Browser:
    """One page in one window. `complaints`: errors and warnings of the console, uncaught exceptions, violations of the
    page's content security policy, since `open`. `requests`: addresses that the page asked for.
    """

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process, self._to, self._from = process, to, back
        self._number, self._buffer, self._session = 0, b"", ""
        self._answers: dict[int, dict[str, Any]] = {}
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        off = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.command("Network.emulateNetworkConditions", **off)

    # --- the protocol -------------------------------------------------------------------------------------------------

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Its result. Raises BrowserError if the browser refuses it or does not answer."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while number not in self._answers:
            self._receive(deadline, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def _receive(self, deadline: float, waiting_for: str) -> None:
        """Takes in what has come, waiting for it until the deadline."""
        ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise BrowserError(f"{waiting_for}: no answer in {PATIENCE_S:g} s")
        data = os.read(self._from, 1 << 20)
        if not data:
            raise BrowserError(f"{waiting_for}: the browser has ended (exit code {self._process.poll()})")
        *messages, self._buffer = (self._buffer + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._event(message["method"], message["params"])

    def _event(self, method: str, told: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description") or details["text"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(arg.get("value", arg)) for arg in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    # --- what a test does ---------------------------------------------------------------------------------------------

    def open(self, page: Path, width: int = 1280, height: int = 900, fragment: str = "", dark: bool = False) -> None:
        """Loads a file in a window of this size in pixels, and waits until it is there."""
        self.command("Page.navigate", url="about:blank")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints.clear()
        self.requests.clear()
        self.command("Page.navigate", url=page.resolve().as_uri() + fragment)
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression (JSON), or of the promise that it is."""
        told = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            details = told["exceptionDetails"]
            raise BrowserError(str(details.get("exception", {}).get("description") or details["text"]))
        return told["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until the expression is true. Raises BrowserError if it does not become so."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.evaluate(condition):
            if time.monotonic() > deadline:
                raise BrowserError(f"{condition!r} did not become true; the console says {self.complaints}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """A key such as Enter or Tab, where the focus is."""
        codes = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " "), "Escape": (27, "")}
        code, text = codes[key]
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.command("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def move(self, x: float, y: float) -> None:
        """The mouse, to a place in the window."""
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A PNG of the whole page, or of the window."""
        data = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        told = self.command("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(told["data"])


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A running browser with a profile of its own; it ends with the block."""
    program = require_browser()
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="bll-browser-", ignore_cleanup_errors=True) as profile:
        arguments = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        arguments += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium has none for root
        # The browser reads commands from descriptor 3 and answers on 4. Both ends are first moved out of the way.
        shell = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", str(command_read), str(answer_write), program, *arguments],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        try:
            yield Browser(process, command_write, answer_read)
        finally:
            os.close(command_write)  # at the end of its commands it ends itself
            os.close(answer_read)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
