"""A real browser for tests: headless Chromium, spoken to over a pipe in its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

EXECUTABLE = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
    # A page that loads anything from elsewhere fails loudly.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


class Browser:
    """One page; use it as a context manager."""

    def __init__(self):
        self.profile = tempfile.mkdtemp()
        theirs_in, self.to = os.pipe()
        self.source, theirs_out = os.pipe()
        # Chromium reads its commands from file 3 and answers on file 4.
        command = [EXECUTABLE, *_FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
            pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.n, self.rest, self.events, self.session = 0, b"", [], None
        targets = self("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.to)
        self.process.kill()
        self.process.wait()
        os.close(self.source)
        shutil.rmtree(self.profile, ignore_errors=True)

    def __call__(self, method, **params):
        """Send a command and return its result; events heard meanwhile are kept."""
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (heard := self._hear()).get("id") != self.n:
            self.events.append(heard)
        if "error" in heard:
            raise RuntimeError(f"{method}: {heard['error']}")
        return heard["result"]

    def _hear(self):
        while b"\0" not in self.rest:
            part = os.read(self.source, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, place, *, width=1280, height=900, dark=False, scale=1):
        """Show a file, or an address, and wait until it is loaded."""
        self.events.clear()
        self(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        if str(place).startswith("http:"):
            # From one place to another of one page nothing is loaded, and nothing would be heard.
            self._go("about:blank")
            self.events.clear()
            self._go(str(place))
        else:
            self._go(Path(place).resolve().as_uri())

    def _go(self, url):
        self("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._hear())

    def wait(self, expression, seconds=60):
        """Wait until a JavaScript expression is true in the page, which fetches what it shows."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(expression)):
            text = self.value("document.body.innerText")
            assert time.monotonic() < deadline, f"{expression} is not true of:\n{text}"
            time.sleep(0.2)
        return found

    def value(self, expression):
        """Return what a JavaScript expression gives in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def complaints(self):
        """Return what the console said, and what the page tried to load beside itself."""
        said = [
            e
            for e in self.events
            if e.get("method")
            in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        ]
        loaded = [
            e["params"]["request"]["url"] for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]  # fmt: skip
        return said, [url for url in loaded if not url.startswith(("file:", "data:"))]

    def screenshot(self, path, *, top=0, height=None):
        """Write a picture of the page, or of a part of it, as PNG."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "scale": 1}
        clip["height"] = min(height or size["height"], size["height"] - top)
        shot = self("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path):
        """Print the page."""
        printed = self("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        Path(path).write_bytes(base64.b64decode(printed["data"]))
