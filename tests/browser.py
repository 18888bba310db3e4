"""Opens pages in headless Chromium and tells what the page asked for and complained about."""

import json
import shutil
import subprocess
import time
from contextlib import contextmanager

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCRIPT = """JSON.stringify({
    figures: [...document.images].map(i => [i.src, i.naturalWidth]),
    formulas: document.querySelectorAll('.math').length,
    drawn: document.querySelectorAll('mjx-container svg').length})"""


def find_chromium():
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser(folder):
    """Yields `visit(url)` -> {requests, complaints, figures, formulas, drawn} of one page."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}"]
    process = subprocess.Popen([find_chromium(), *options], stderr=subprocess.DEVNULL)
    try:
        yield lambda url: _visit(_connect(folder / "DevToolsActivePort"), url)
    finally:
        process.terminate()
        process.wait(20)


def _connect(port_file):
    for _ in range(300):
        if port_file.exists() and len(lines := port_file.read_text().splitlines()) == 2:
            return websocket.create_connection(f"ws://127.0.0.1:{lines[0]}{lines[1]}", timeout=60)
        time.sleep(0.1)
    raise TimeoutError("Chromium did not open its debugging port")


def _visit(socket, url):
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
    send("Page.navigate", session, url=url)
    while not any(event["method"] == "Page.loadEventFired" for event in events):
        events.append(json.loads(socket.recv()))
    time.sleep(1)  # formulas are drawn after loading
    page = json.loads(send("Runtime.evaluate", session, expression=SCRIPT)["result"]["value"])
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
