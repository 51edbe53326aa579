"""A small language model server, to be checkpointed under requests: PyTorch and nothing else.

    python3 llm_server.py serve --device cuda --gib 8 --port 8080
    python3 llm_server.py ask --port 8080 --requests 4 --tokens 64 --out /tmp/a.json

It runs inside the sandbox, with whatever Python has PyTorch. The model is a transformer with random
weights from a seed: rotary attention over a cache of keys and values, and on a GPU a CUDA graph for
each step of generation. The weights, the cache, the graph and the generators of the samples are
state that only a checkpoint preserves. One request is a line of JSON for each token: its id and its
log-probability, which depend on nothing but the model, the prompt and the seed.

`ask` waits for the file `--go`, if one is given, and then sends its requests at the same time.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_HOST = "127.0.0.1"
_WAIT_S = 0.02
_CALL_S = 3600.0
_EPSILON = 1e-6
_BYTES_PER_WEIGHT = 4
_BLOCK = 12  # weights of a block: 4 of the attention and 8 of the feed-forward, times width squared


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; `slots` requests are generated at the same time."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    slots: int

    @classmethod
    def of(cls, gib: float, slots: int) -> Shape:
        """Return a shape whose weights take about so many GiB; the smallest for 0."""
        if not gib:
            return cls(2, 128, 4, 512, 256, slots)
        width = 4096 if gib > 1 else 1024
        layers = max(1, round(gib * (1 << 30) / _BYTES_PER_WEIGHT / (_BLOCK * width * width)))
        return cls(layers, width, width // 128, 32000, 1024, slots)


@dataclass
class Request:
    """A request: the tokens so far, and where each new one is sent; None is the end."""

    prompt: list[int]
    tokens: int
    draws: random.Random
    answers: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)
    position: int = 0
    next_token: int = 0
    made: int = 0


class Model:
    """The model with its cache, and a step of generation for all slots at once."""

    def __init__(self, shape: Shape, device: str, seed: int) -> None:
        """Make the weights, and on a GPU capture the step as a CUDA graph."""
        # `ask` does without, and a host that only checks this file has none.
        torch: Any = importlib.import_module("torch")

        self.torch = torch
        self.shape = shape
        self.device = torch.device(device)
        self._random = torch.Generator(device=self.device)
        self._random.manual_seed(seed)
        width, depth = shape.width, shape.width // shape.heads
        self.embedding = self._weights(shape.vocabulary, width, scale=1.0)
        self.head = self._weights(width, shape.vocabulary)
        self.blocks = [
            [self._weights(width, width) for _ in range(4)]
            + [self._weights(width, 4 * width), self._weights(4 * width, width)]
            for _ in range(shape.layers)
        ]
        cache = (shape.layers, shape.slots, shape.heads, shape.context, depth)
        self.keys = torch.zeros(cache, device=self.device)
        self.values = torch.zeros(cache, device=self.device)
        self.tokens = torch.zeros(shape.slots, dtype=torch.long, device=self.device)
        self.positions = torch.zeros(shape.slots, dtype=torch.long, device=self.device)
        self._rows = torch.arange(shape.slots, device=self.device)[:, None]
        self._heads = torch.arange(shape.heads, device=self.device)[None, :]
        self._places = torch.arange(shape.context, device=self.device)
        half = torch.arange(depth // 2, device=self.device) / (depth // 2)
        self._angles = self._places[:, None] * (10000.0**-half)[None, :]
        self.logits = torch.zeros(shape.slots, shape.vocabulary, device=self.device)
        self._graph: Any = None
        if self.device.type == "cuda":
            self._capture()

    def _weights(self, rows: int, columns: int, scale: float = 0.0) -> Any:
        made = self.torch.empty(rows, columns, device=self.device)
        return made.normal_(0.0, scale or rows**-0.5, generator=self._random)

    def _capture(self) -> None:
        torch = self.torch
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), torch.no_grad():
            for _ in range(3):
                self._forward()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._forward()

    def step(self, tokens: list[int], positions: list[int]) -> Any:
        """Take one token in each slot; return the log-probabilities of the next ones."""
        torch = self.torch
        with torch.no_grad():
            self.tokens.copy_(torch.tensor(tokens))
            self.positions.copy_(torch.tensor(positions))
            if self._graph is not None:
                self._graph.replay()
            else:
                self._forward()
            return torch.log_softmax(self.logits, dim=-1).cpu()

    def _forward(self) -> None:
        torch, shape = self.torch, self.shape
        slots, heads, depth = shape.slots, shape.heads, shape.width // shape.heads
        hidden = self.embedding[self.tokens]
        angles = self._angles[self.positions][:, None, :]
        seen = self._places[None, None, :] <= self.positions[:, None, None]
        for at, (query, key, value, out, up, down) in enumerate(self.blocks):
            normal = self._normal(hidden)
            q = self._turned((normal @ query).view(slots, heads, depth), angles)
            k = self._turned((normal @ key).view(slots, heads, depth), angles)
            v = (normal @ value).view(slots, heads, depth)
            self.keys[at][self._where()] = k
            self.values[at][self._where()] = v
            scores = (self.keys[at] @ q[..., None])[..., 0] / depth**0.5
            weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1)
            mixed = (weights[..., None, :] @ self.values[at])[..., 0, :]
            hidden = hidden + mixed.reshape(slots, shape.width) @ out
            inner = self._normal(hidden) @ up
            hidden = hidden + (inner * torch.sigmoid(inner)) @ down
        self.logits.copy_(self._normal(hidden) @ self.head)

    def _where(self) -> tuple[Any, Any, Any]:
        """Return the places in a cache for the token of each slot."""
        return self._rows, self._heads, self.positions[:, None]

    def _normal(self, hidden: Any) -> Any:
        return hidden * self.torch.rsqrt(hidden.square().mean(-1, keepdim=True) + _EPSILON)

    def _turned(self, heads: Any, angles: Any) -> Any:
        """Apply the rotary embedding."""
        one, other = heads.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return self.torch.cat((one * cos - other * sin, one * sin + other * cos), dim=-1)


class Engine:
    """Generates for several requests at a time; those that find no free slot wait for one."""

    def __init__(self, model: Model) -> None:
        """Start the thread that generates."""
        self._model = model
        self._waiting: queue.Queue[Request] = queue.Queue()
        self._slots: list[Request | None] = [None] * model.shape.slots
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, request: Request) -> Iterator[dict[str, Any]]:
        """Take a request; yield its tokens as they are made."""
        self._waiting.put(request)
        while (answer := request.answers.get()) is not None:
            yield answer

    def _run(self) -> None:
        while True:
            self._admit()
            found = self._model.step(
                [one.next_token if one else 0 for one in self._slots],
                [one.position if one else 0 for one in self._slots],
            )
            for slot, request in enumerate(self._slots):
                if request is not None and self._advance(request, found[slot]):
                    self._slots[slot] = None

    def _admit(self) -> None:
        """Fill the free slots; wait for a request if all are free."""
        for slot, request in enumerate(self._slots):
            idle = all(one is None for one in self._slots)
            if request is not None or (not idle and self._waiting.empty()):
                continue
            taken = self._waiting.get()
            taken.next_token = taken.prompt[0]
            self._slots[slot] = taken

    def _advance(self, request: Request, found: Any) -> bool:
        """Go to the next token of the prompt, or draw one; return whether it was the last."""
        request.position += 1
        if request.position < len(request.prompt):
            request.next_token = request.prompt[request.position]
            return False
        token = self._drawn(found, request.draws.random())
        request.answers.put({"id": token, "logprob": float(found[token])})
        request.made += 1
        request.next_token = token
        if request.made < request.tokens:
            return False
        request.answers.put(None)
        return True

    def _drawn(self, found: Any, draw: float) -> int:
        """Return the token at this part of the distribution."""
        sums = found.double().exp().cumsum(0)
        at = int(self._model.torch.searchsorted(sums, draw * float(sums[-1])))
        return min(at, len(found) - 1)


def serve(given: argparse.Namespace) -> None:
    """Serve until killed."""
    shape = Shape.of(given.gib, given.slots)
    engine = Engine(Model(shape, given.device, given.seed))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            asked = json.loads(self.rfile.read(size))
            prompt = [token % shape.vocabulary for token in asked["prompt"]]
            tokens = min(int(asked["tokens"]), shape.context - len(prompt))
            request = Request(prompt, tokens, _draws(asked["seed"]))
            self.send_response(200)
            self.end_headers()
            for answer in engine.add(request):
                self.wfile.write(json.dumps(answer).encode() + b"\n")
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer((_HOST, given.port), Handler) as server:
        server.serve_forever()


def ask(given: argparse.Namespace) -> None:
    """Send requests at the same time, write their tokens into a file, and how many there are."""
    while given.go and not Path(given.go).exists():
        time.sleep(_WAIT_S)
    answers: list[list[dict[str, Any]]] = [[] for _ in range(given.requests)]
    threads = [
        threading.Thread(target=_ask, args=(given, number, answers[number]))
        for number in range(given.requests)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        _write(Path(f"{given.out}.count"), str(sum(map(len, answers))))
        threads[0].join(_WAIT_S)
    _write(Path(given.out), json.dumps(answers))


def _ask(given: argparse.Namespace, number: int, answers: list[dict[str, Any]]) -> None:
    draws = _draws(number)
    prompt = [draws.randrange(1 << 20) for _ in range(given.prompt)]
    body = json.dumps({"prompt": prompt, "tokens": given.tokens, "seed": number})
    connection = _connected(given.port)
    connection.request("POST", "/generate", body)
    # One by one: their number is read meanwhile.
    answers.extend(json.loads(line) for line in connection.getresponse())


def _draws(seed: int) -> random.Random:
    """Return a generator that always draws the same."""
    return random.Random(seed)  # noqa: S311 - it protects nothing


def _connected(port: int) -> http.client.HTTPConnection:
    """Connect, and wait for the server if it is not there yet."""
    until = time.monotonic() + _CALL_S
    while True:
        connection = http.client.HTTPConnection(_HOST, port, timeout=_CALL_S)
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(_WAIT_S)
        else:
            return connection


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or the one before."""
    path.with_suffix(".part").write_text(text, "utf-8")
    path.with_suffix(".part").replace(path)


def main() -> None:
    """Run the command; `both` serves, and asks in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("serve", "ask", "both"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gib", type=float, default=0.0, help="size of the weights; 0: a tiny one")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=16, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to make for each request")
    parser.add_argument("--out", default="answers.json")
    parser.add_argument("--go", default="", help="wait for this file before asking")
    given = parser.parse_args()
    if given.command == "both" and os.fork() == 0:
        ask(given)
        return
    (ask if given.command == "ask" else serve)(given)


if __name__ == "__main__":
    main()
