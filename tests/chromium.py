"""Headless Chromium: where it is, and one that is driven over a pipe in DevTools' protocol."""

import json
import os
import select
import shutil
import subprocess
import time
from itertools import count

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Chromium:
    """One page, and what it and its workers ask the network for."""

    def __init__(self, folder, *flags):
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", *flags]
        # The protocol wants its pipes at 3 and 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "-", *command],
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._rest, self.workers, self.requested = count(1), b"", {}, []
        self.downloads = folder / "downloads"
        target = self.call("Target.createTarget", session="", url="about:blank")["targetId"]
        self._page = self.call("Target.attachToTarget", session="", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")
        self.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
        self.call("Browser.setDownloadBehavior", session="", behavior="allow", downloadPath=str(self.downloads))

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method, session=None, **parameters):
        """The result of a command, by default to the page."""
        number = self._send(method, self._page if session is None else session, parameters)
        while (message := self._receive()).get("id") != number:
            self._note(message)
        assert "error" not in message, message
        return message["result"]

    def evaluate(self, expression, session=None):
        """A JavaScript expression's value, awaited."""
        done = self.call("Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression, seconds=60):
        """Until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"never: {expression}; {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def press(self, key, code=0, text=""):
        """A key, by its name and Windows' number for it."""
        for kind in ("keyDown", "keyUp"):
            parameters = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            self.call(
                "Input.dispatchKeyEvent", type=kind, **parameters, **({"text": text} if kind == "keyDown" else {})
            )

    def _send(self, method, session, parameters):
        message = {"id": next(self._numbers), "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        return message["id"]

    def _receive(self):
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], 60)[0], "Chromium is silent"
            data = os.read(self._in, 2**20)
            assert data, "Chromium has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _note(self, message):
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(message["params"]["request"]["url"])
        if message.get("method") == "Target.attachedToTarget":
            session, target = message["params"]["sessionId"], message["params"]["targetInfo"]
            self.workers[session] = target["type"]
            self._send("Network.enable", session, {})
            self._send("Runtime.runIfWaitingForDebugger", session, {})
