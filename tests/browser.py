"""Opens pages in headless Chromium and tells what the page asked for and complained about."""

import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import websocket

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCRIPT = """JSON.stringify({
    figures: [...document.images].map(i => [i.src, i.naturalWidth]),
    formulas: document.querySelectorAll('.math').length,
    drawn: document.querySelectorAll('mjx-container svg').length})"""


def find_chromium():
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser(folder):
    """Yields `visit(url)` -> {requests, complaints, figures, formulas, drawn, returned} of one page.

    `visit(url, script)` also gives what the JavaScript expression `script`, or its promise, returns. Options are
    `size`, (width, height) in CSS pixels, and `scheme`, "light" or "dark".
    """
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}"]
    process = subprocess.Popen([find_chromium(), *options], stderr=subprocess.DEVNULL)
    try:
        yield lambda url, script="null", **look: _visit(_connect(folder / "DevToolsActivePort"), url, script, **look)
    finally:
        process.terminate()
        process.wait(20)


def _connect(port_file):
    for _ in range(300):
        if port_file.exists() and len(lines := port_file.read_text().splitlines()) == 2:
            return websocket.create_connection(f"ws://127.0.0.1:{lines[0]}{lines[1]}", timeout=300)
        time.sleep(0.1)
    raise TimeoutError("Chromium did not open its debugging port")


def accessibility():
    """A script for `visit`: what axe finds on a page that hinders people seriously, as (rule, place, why)."""
    run = "axe.run(document, {resultTypes: ['violations'], preload: false})"
    grave = "['serious', 'critical'].includes(v.impact)"
    nodes = "v.nodes.map(n => [v.id, n.target.join(' '), n.failureSummary])"
    return (
        f"{AXE.read_text(encoding='utf-8')}\n{run}.then(r => r.violations.filter(v => {grave}).flatMap(v => {nodes}))"
    )


def _visit(socket, url, script, size=(1400, 900), scheme="light"):
    events, number = [], 0

    def send(method, session=None, **params):
        nonlocal number
        number += 1
        socket.send(
            json.dumps({"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {}))
        )
        while True:
            message = json.loads(socket.recv())
            if message.get("id") == number:
                return message["result"]
            events.append(message)

    target = send("Target.createTarget", url="about:blank")["targetId"]
    session = send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Network", "Runtime", "Log", "Page"):
        send(f"{domain}.enable", session)
    telephone = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
    send("Emulation.setDeviceMetricsOverride", session, **telephone)
    send("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme}])
    send("Page.navigate", session, url=url)
    while not any(event["method"] == "Page.loadEventFired" for event in events):
        events.append(json.loads(socket.recv()))
    time.sleep(1)  # formulas are drawn after loading
    page = json.loads(send("Runtime.evaluate", session, expression=SCRIPT)["result"]["value"])
    options = {"awaitPromise": True, "returnByValue": True}
    returned = send("Runtime.evaluate", session, expression=script, **options)
    assert "exceptionDetails" not in returned, returned
    page["returned"] = returned["result"].get("value")
    send("Target.closeTarget", targetId=target)
    socket.close()
    return page | {
        "requests": [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"],
        "complaints": [e["params"] for e in events if _is_complaint(e)],
    }


def _is_complaint(event):
    params = event.get("params", {})
    if event["method"] == "Log.entryAdded":
        return params["entry"]["level"] in ("error", "warning")
    if event["method"] == "Runtime.consoleAPICalled":
        return params["type"] in ("error", "warning", "assert")
    return event["method"] in ("Runtime.exceptionThrown", "Network.loadingFailed")
