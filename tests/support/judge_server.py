"""A server on a free port of this machine that speaks the chat APIs of OpenAI and Anthropic."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Mapping[str, Any] | bytes | int
"""A JSON body, a raw body, or an HTTP status to fail with."""

NUM_TOKENS_IN, NUM_TOKENS_OUT = 7, 1


@dataclass
class JudgeServer:
    """The running server.

    Attributes:
        answer: from the text of a prompt and how often it was asked before, to the reply.
        prompts: of every request, in the order of arrival.
        keys: what the requests were authorised with.
        bodies: of every request.
        most_at_once: requests under way at a time, at most.
        delay_s: before each answer.
    """

    url: str
    answer: Callable[[str, int], Reply]
    prompts: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    delay_s: float = 0.0
    num_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Every prompt that comes is the first of its kind again."""
        with self.lock:
            for noted in (self.prompts, self.keys, self.bodies):
                noted.clear()

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"


def first_tokens(probabilities: Mapping[str, float], *, text: str | None = None) -> Reply:
    """An OpenAI reply whose first token has these log-probabilities."""
    from math import log

    likeliest = max(probabilities, key=lambda t: probabilities[t])
    top = [{"token": t, "logprob": log(p), "bytes": None} for t, p in probabilities.items()]
    content = {"token": likeliest, "logprob": top[0]["logprob"], "bytes": None, "top_logprobs": top}
    return openai_reply(likeliest if text is None else text, {"content": [content]})


def openai_reply(
    text: str | None, logprobs: Any = None, *, refusal: str | None = None, finish: str = "stop"
) -> Reply:
    """An OpenAI reply with a text."""
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [
            {
                "index": 0, "finish_reason": finish, "logprobs": logprobs,
                "message": {"role": "assistant", "content": text, "refusal": refusal},
            }
        ],
        "usage": {
            "prompt_tokens": NUM_TOKENS_IN, "completion_tokens": NUM_TOKENS_OUT,
            "total_tokens": NUM_TOKENS_IN + NUM_TOKENS_OUT,
        },
    }  # fmt: skip


def anthropic_reply(text: str, *, stop_reason: str = "end_turn") -> Reply:
    """An Anthropic reply with a text."""
    return {
        "id": "x", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop_reason, "stop_sequence": None,
        "usage": {"input_tokens": NUM_TOKENS_IN, "output_tokens": NUM_TOKENS_OUT},
    }  # fmt: skip


@contextmanager
def judge_server(answer: Callable[[str, int], Reply]) -> Iterator[JudgeServer]:
    """Run a server until the context ends."""
    state = JudgeServer("", answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with state.lock:
                num_before = state.prompts.count(prompt)
                state.prompts.append(prompt)
                state.bodies.append(body)
                state.keys.append(
                    self.headers.get("x-api-key") or self.headers.get("Authorization") or ""
                )
                state.num_at_once += 1
                state.most_at_once = max(state.most_at_once, state.num_at_once)
            time.sleep(state.delay_s)
            try:
                self.send(state.answer(prompt, num_before))
            finally:
                with state.lock:
                    state.num_at_once -= 1

        def send(self, reply: Reply) -> None:
            status = reply if isinstance(reply, int) else 200
            if isinstance(reply, int):
                # What servers say of a key, to be kept out of every message.
                key = self.headers.get("x-api-key") or self.headers.get("Authorization") or ""
                reply = {"error": {"message": f"Incorrect API key provided: {key}", "code": None}}
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:  # the client was killed while it waited
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
