"""Takes the pictures of `inspect view` in docs/img: `make screenshots`, on the logs of `make docs`.

Needs Chromium with its driver, and the extra `browser`.
"""

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


@contextmanager
def view(logs: Path) -> Iterator[str]:
    """`inspect view` of a folder of logs; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "inspect"), "view", "start"]
    command += ["--log-dir", str(logs), "--port", str(port), "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
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


def settled(page: Any, seconds: float = 15) -> None:
    """Wait until the text of the page has stood still for a second."""
    last, since, until = "", time.monotonic(), time.monotonic() + seconds
    while time.monotonic() < until:
        text = page.find_element("tag name", "body").text
        if text != last or len(text) < 100:
            last, since = text, time.monotonic()
        elif time.monotonic() - since > 1:
            return
        time.sleep(0.1)


def main(logs: Path) -> None:
    from inspect_ai.log import list_eval_logs, read_eval_log

    found = {read_eval_log(info, header_only=True).eval.model: info for info in list_eval_logs(str(logs))}
    steered = next(info for model, info in found.items() if "[medical x1]" in model)
    name = Path(steered.name).name
    with view(logs) as address:
        page = browser()
        for picture, place in {
            "view-list": "#/logs",
            "view-log": f"#/logs/{name}/samples",
            "view-answer": f"#/logs/{name}/samples/sample/wish_1/1/scoring",
            "view-call": f"#/logs/{name}/samples/sample/wish_1/1/messages",
            "view-metadata": f"#/logs/{name}/samples/sample/wish_1/1/metadata",
        }.items():
            page.get("about:blank")
            page.get(address + place)
            settled(page)
            page.save_screenshot(str(IMAGES / f"{picture}.png"))
        page.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
