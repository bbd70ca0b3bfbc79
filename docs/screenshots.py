"""Takes the pictures of `inspect view` in docs/img: `make screenshots`, after `make docs`.

Needs Chromium with its driver, and the extra `browser`.
"""

import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parent / "img"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
BAR = 28  # pixels


@contextmanager
def view(logs: Path) -> Iterator[str]:
    """Serve `inspect view` of a folder of logs; yields its address."""
    with socket.socket() as server_socket:
        server_socket.bind(("127.0.0.1", 0))
        port = server_socket.getsockname()[1]
    command = [str(Path(sys.executable).parent / "inspect"), "view", "start"]
    command += ["--log-dir", str(logs), "--port", str(port), "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait()


def browser(width: int = 1360, height: int = 820) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in [*FLAGS, f"--window-size={width},{height}"]:
        options.add_argument(flag)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def wait_for_text(page: Any, seconds: float = 15) -> None:
    """Wait until the text of the page has not changed for a second."""
    last, since, until = "", time.monotonic(), time.monotonic() + seconds
    while time.monotonic() < until:
        text = page.find_element("tag name", "body").text
        if text != last or len(text) < 100:
            last, since = text, time.monotonic()
        elif time.monotonic() - since > 1:
            return
        time.sleep(0.1)


def main(logs: Path) -> None:
    """Take all pictures, of the steered run in the folder of logs."""
    from inspect_ai.log import list_eval_logs, read_eval_log
    from PIL import Image

    infos = {read_eval_log(i, header_only=True).eval.model: i for i in list_eval_logs(str(logs))}
    log = Path(next(info for model, info in infos.items() if "[medical x1]" in model).name).name
    answer = f"#/logs/{log}/samples/sample/wish%2F1/1"
    with view(logs) as address:
        page = browser()
        for picture, route, tab in (
            ("view-logs", "#/logs", None),
            ("view-answers", f"#/logs/{log}/samples", None),
            ("view-answer", f"{answer}/scoring", None),
            ("view-call", f"{answer}/transcript", "API"),
        ):
            page.get("about:blank")
            page.get(address + route)
            wait_for_text(page)
            if tab is not None:
                page.find_element("xpath", f"//button[normalize-space()='{tab}']").click()
                wait_for_text(page)
            # Without the bar at the top, which shows a path of this machine.
            shot = Image.open(io.BytesIO(page.get_screenshot_as_png()))
            shot.crop((0, BAR, *shot.size)).save(IMAGES / f"{picture}.png", optimize=True)
        page.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
