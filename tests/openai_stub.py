"""A server on this machine that answers as OpenAI's API does, and refuses what that refuses.

It knows both of the API's endpoints for text. What it refuses: log probabilities and temperature
of a model that reasons, `none` as the effort of one that always does, fewer than 16 tokens
(Responses), `top_logprobs` without `logprobs` (Chat Completions), unknown models. Whoever reasons
on fewer than `THOUGHT` tokens is cut off before the answer.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

THOUGHT = 600

# Model to its effort where none is named, and whether it can be `none`; a model without an effort
# does not reason.
MODELS: Mapping[str, tuple[str | None, bool]] = {
    "gpt-4o-2024-08-06": (None, True),
    "gpt-5": ("medium", False),
    "gpt-5.4": ("none", True),
    "gpt-5.5": ("medium", True),
    "gpt-6-luna": ("medium", True),
    "gpt-6.1-sol": ("medium", False),
    "gpt-7-nova": ("medium", False),
    "o3": ("medium", False),
    "lab-plain": (None, True),
    "lab-strict": ("medium", False),
}
_TOKENS = {"70": 0.5, "80": 0.25, "60": 0.25}


class _RefusalError(Exception):
    """A reply with an error of the API."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": "invalid_request", "code": code, "param": param}
        }


@dataclass
class Stub:
    """The server: where it is, what it was asked, and what ails it.

    Attributes:
        url: to give as base URL.
        fault: `half` (every other request fails, with 429 and 500 by turns), `slow`, `filter`, or
            none.
        requests: path and body of every request.
        most_at_once: the most requests that it had at one time.
    """

    url: str = ""
    fault: str = ""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: Lock = field(default_factory=Lock)

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request.

        Raises:
            _RefusalError: It is refused.
        """
        with self.lock:
            self.requests.append((path, body))
            number = len(self.requests)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self._answer(path, body, number)
        finally:
            with self.lock:
                self.at_once -= 1

    def _answer(self, path: str, body: dict[str, Any], number: int) -> dict[str, Any]:
        if self.fault == "half" and number % 2:
            status = 429 if number % 4 == 1 else 500
            raise _RefusalError(status, f"trouble number {number}")
        if self.fault == "slow":
            time.sleep(0.3)
        if body["model"] not in MODELS:
            raise _RefusalError(
                404, f"The model `{body['model']}` does not exist", "model_not_found"
            )
        return (_responses if path.endswith("/responses") else _chat)(body, self.fault)


def _reasons(model: str, effort: str | None) -> bool:
    """Whether a model reasons when it is asked with an effort."""
    default, can_be_none = MODELS[model]
    if default is None and effort is not None:
        raise _refused_parameter("reasoning.effort")
    if effort == "none" and not can_be_none:
        message = "Unsupported value: 'reasoning.effort' does not support 'none' with this model."
        raise _RefusalError(400, message, "unsupported_value", "reasoning.effort")
    return (effort or default or "none") != "none"


def _refused_parameter(name: str) -> _RefusalError:
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    return _RefusalError(400, message, "unsupported_parameter", name)


def _responses(body: dict[str, Any], fault: str) -> dict[str, Any]:
    reasons = _reasons(body["model"], body.get("reasoning", {}).get("effort"))
    limit = body.get("max_output_tokens")
    with_logprobs = "message.output_text.logprobs" in body.get("include", [])
    if limit is not None and limit < 16:
        message = "Invalid 'max_output_tokens': integer below minimum value. Expected >= 16."
        raise _RefusalError(400, message, "integer_below_min_value", "max_output_tokens")
    for name in ("temperature", "top_p", "top_logprobs"):
        if reasons and body.get(name) is not None:
            raise _refused_parameter(name)
    if reasons and with_logprobs:
        raise _refused_parameter("include: message.output_text.logprobs")
    output: list[dict[str, Any]] = []
    if reasons:
        output.append({"type": "reasoning", "id": "rs_1", "summary": []})
    cut = reasons and limit is not None and limit < THOUGHT
    if not cut:
        text = {"type": "output_text", "text": "70", "annotations": []}
        if with_logprobs:
            text["logprobs"] = [{"bytes": [], **_logprob("70"), "top_logprobs": _top()}]
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
        output.append(message | {"content": [text]})
    why = "content_filter" if fault == "filter" else "max_output_tokens" if cut else None
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "status": "incomplete" if why else "completed",
        "incomplete_details": {"reason": why} if why else None,
        "error": None,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 9,
            "output_tokens": 1,
            "total_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _chat(body: dict[str, Any], fault: str) -> dict[str, Any]:
    reasons = _reasons(body["model"], body.get("reasoning_effort"))
    if reasons and body.get("temperature") not in (None, 1):
        message = "Unsupported value: 'temperature' does not support 0 with this model."
        raise _RefusalError(400, message, "unsupported_value", "temperature")
    for name in ("logprobs", "top_logprobs"):
        if reasons and body.get(name):
            raise _refused_parameter(name)
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise _refused_parameter("top_logprobs")
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": "70", "refusal": None},
        "finish_reason": "content_filter" if fault == "filter" else "stop",
        "logprobs": None,
    }
    if body.get("logprobs"):
        content = [{"bytes": None, **_logprob("70"), "top_logprobs": _top()}]
        choice["logprobs"] = {"content": content, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }


def _logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(_TOKENS[token])}


def _top() -> list[dict[str, Any]]:
    return [{"bytes": [], **_logprob(token)} for token in _TOKENS]


@contextmanager
def serving() -> Iterator[Stub]:
    """A stub that answers on a free port of this machine."""
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, reply = 200, stub.answer(self.path, body)
            except _RefusalError as refusal:
                status, reply = refusal.status, refusal.body
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            # What a client waits before it asks again.
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
