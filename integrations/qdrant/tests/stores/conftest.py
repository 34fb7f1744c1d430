"""Stores to test, and a server on loopback that fails on request."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from embedprefs_qdrant.stores import (
    Clock,
    CollectionLayout,
    PayloadIndex,
    Point,
    SparseVector,
    SparseVectorLayout,
    Store,
    VectorLayout,
    open_store,
)

DIMENSIONS = 16
SMALL = 4


@dataclass
class Fault:
    """What the server does wrong with one request.

    `before` and `after` the request is applied; each is a function that takes the handler and returns whether it has
    answered.
    """

    before: Callable[[Handler], bool] | None = None
    after: Callable[[Handler], bool] | None = None
    path: str = "/points"
    method: str = "PUT"


class FakeTime:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds

    def clock(self, chance: float = 1.0) -> Clock:
        return Clock(sleep=self.sleep, now=lambda: self.seconds, chance=lambda: chance)


@dataclass
class Wire:
    """The server's address, what it was asked, and what it is to do wrong."""

    url: str
    client: Any
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    keeps_metadata: bool = True
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def fail(self, *faults: Fault) -> None:
        """Put these faults in line; each meets one matching request."""
        self.faults.extend(faults)

    def sent(self, method: str = "PUT", path: str = "/points") -> int:
        """Number of requests of this kind."""
        return sum(1 for verb, where, _ in self.requests if verb == method and where.endswith(path))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and path.endswith(fault.path):
                    self.faults.remove(fault)
                    return fault
        return None


def status(code: int, text: str = "injected", **headers: str) -> Callable[[Handler], bool]:
    """Answer with an error."""

    def answer(handler: Handler) -> bool:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answer(code, {"status": {"error": text}, "time": 0}, named)
        return True

    return answer


def reset(handler: Handler) -> bool:
    """Break the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Closing the socket object would leave the descriptor open for the handler's files.
    os.close(handler.connection.detach())
    handler.close_connection = True
    return True


def hang(handler: Handler) -> bool:
    """Never answer."""
    handler.server.wire.stopping.wait(30)
    handler.close_connection = True
    return True


def dribble(handler: Handler) -> bool:
    """Answer so slowly that every single piece is in time and the whole is not."""
    body = json.dumps({"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0}).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for position in range(len(body)):
        if handler.server.wire.stopping.wait(0.25):
            break
        try:
            handler.wfile.write(body[position : position + 1])
            handler.wfile.flush()
        except OSError:
            break
    handler.close_connection = True
    return True


def garble(handler: Handler) -> bool:
    """Answer with something that is no answer, as a proxy may."""
    handler.send_response(200)
    handler.send_header("Content-Length", "6")
    handler.end_headers()
    handler.wfile.write(b"<html>")
    return True


class Handler(BaseHTTPRequestHandler):
    """Qdrant's REST interface, as much of it as the stores use, over the client's own emulation of the engine."""

    protocol_version = "HTTP/1.1"
    server: WireServer

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wire, path = self.server.wire, urlsplit(self.path).path
        wire.requests.append((self.command, path, len(body)))
        fault = wire.take_fault(self.command, path)
        if fault and fault.before and fault.before(self):
            return
        code, content = self.apply(path, json.loads(body) if body else {})
        if fault and fault.after and fault.after(self):
            return
        self.answer(code, content)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_request  # noqa: N815 - names of the base class

    def apply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        try:
            with self.server.wire.lock:
                result = self.dispatch([unquote(part) for part in path.strip("/").split("/")], body)
        except LookupError as error:
            return 404, {"status": {"error": f"Not found: {error}"}, "time": 0}
        except FileExistsError as error:
            return 409, {"status": {"error": str(error)}, "time": 0}
        except (ValueError, TypeError) as error:
            return 400, {"status": {"error": str(error)}, "time": 0}
        return 200, result if isinstance(result, dict) and "version" in result else envelope(result)

    def dispatch(self, parts: list[str], body: dict[str, Any]) -> Any:
        from qdrant_client import models

        client = self.server.wire.client
        match self.command, parts:
            case "GET", [""]:
                return {"title": "stub", "version": "1.20.0"}
            case "GET", ["collections"]:
                return client.get_collections()
            case "GET", ["aliases"]:
                return client.get_aliases()
            case "POST", ["collections", "aliases"]:
                return client.update_collection_aliases(models.ChangeAliasesOperation(**body).actions)
        name, rest = parts[1], parts[2:]
        exists = client.collection_exists(name) or name in {a.alias_name for a in client.get_aliases().aliases}
        if (self.command, rest) == ("PUT", []):
            if exists:
                raise FileExistsError(f"Wrong input: Collection `{name}` already exists!")
            created = models.CreateCollection(**body)
            return client.create_collection(
                name,
                vectors_config=created.vectors,
                sparse_vectors_config=created.sparse_vectors,
                hnsw_config=created.hnsw_config,
            )
        if not exists:
            raise LookupError(f"Collection `{name}` doesn't exist!")
        return self.dispatch_to_collection(client, name, rest, body)

    def dispatch_to_collection(self, client: Any, name: str, rest: list[str], body: dict[str, Any]) -> Any:
        from qdrant_client import models

        match self.command, rest:
            case "GET", []:
                return client.get_collection(name)
            case "DELETE", []:
                return client.delete_collection(name)
            case "PATCH", []:
                self.server.wire.changes.append(dict(body))
                if not self.server.wire.keeps_metadata:
                    body.pop("metadata", None)
                return client.update_collection(name, metadata=body.get("metadata"))
            case "PUT", ["index"]:
                return models.UpdateResult(operation_id=1, status=models.UpdateStatus.COMPLETED)
            case "PUT", ["vectors", vector]:
                config = models.DenseVectorNameConfig if "dense" in body else models.SparseVectorNameConfig
                return client.create_vector_name(name, vector, config(**body))
            case "PUT", ["points"]:
                return client.upsert(name, models.PointsList(**body).points)
            case "POST", ["points"]:
                request = models.PointRequest(**body)
                return client.retrieve(name, request.ids, request.with_payload, request.with_vector)
            case "POST", ["points", "scroll"]:
                request = models.ScrollRequest(**body)
                points, after = client.scroll(
                    name,
                    scroll_filter=request.filter,
                    limit=request.limit,
                    offset=request.offset,
                    with_payload=request.with_payload,
                    with_vectors=request.with_vector,
                )
                return {"points": [dump(point) for point in points], "next_page_offset": after}
            case "POST", ["points", "count"]:
                return client.count(name, count_filter=models.CountRequest(**body).filter)
            case "POST", ["points", "delete"]:
                selector = models.FilterSelector(**body) if "filter" in body else models.PointIdsList(**body)
                return client.delete(name, selector)
            case ((("POST" | "PUT") as verb), ["points", "payload"]):
                request = models.SetPayload(**body)
                selector = request.points or models.FilterSelector(filter=request.filter)
                change = client.set_payload if verb == "POST" else client.overwrite_payload
                return change(name, request.payload, selector)
            case "POST", ["points", "query", "batch"]:
                return client.query_batch_points(name, models.QueryRequestBatch(**body).searches)
        raise ValueError(f"the stub does not know {self.command} {rest}")


def dump(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def envelope(result: Any) -> dict[str, Any]:
    dumped = [dump(item) for item in result] if isinstance(result, list) else dump(result)
    return {"result": dumped, "status": "ok", "time": 0.0}


class WireServer(ThreadingHTTPServer):
    daemon_threads = True
    wire: Wire

    def handle_error(self, *_: object) -> None:
        """A connection that a fault has broken is no error of the server."""


@contextmanager
def serve() -> Iterator[Wire]:
    """A server on loopback that answers like Qdrant and fails on request."""
    from qdrant_client import QdrantClient

    server = WireServer(("127.0.0.1", 0), Handler)
    client = QdrantClient(location=":memory:")
    server.wire = Wire(f"http://127.0.0.1:{server.server_address[1]}", client)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.wire
    server.wire.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()
    client.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve() as running:
        yield running


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


# A real server takes part where QDRANT_URL names one; its key is read from QDRANT_API_KEY.
STORES = ["edge", "local", "memory", "wire", *(["server"] if "QDRANT_URL" in os.environ else [])]


@contextmanager
def placed(kind: str, folder: Path) -> Iterator[str]:
    """The address of a store of this kind."""
    match kind:
        case "edge" | "local":
            yield f"{kind}:{folder / kind}"
        case "memory":
            yield ":memory:"
        case "wire":
            with serve() as running:
                yield running.url
        case _:
            yield os.environ["QDRANT_URL"]


@pytest.fixture(params=STORES)
def address(request, tmp_path) -> Iterator[str]:
    """Where each kind of store is."""
    with placed(request.param, tmp_path) as where:
        yield where


@contextmanager
def opened(address: str) -> Iterator[Store]:
    """The store; what was made in it is removed at the end."""
    store = open_store(address)
    before = set(store.collections())
    yield store
    for collection in set(store.collections()) - before:
        store.drop(collection)
    store.close()


@pytest.fixture
def store(address) -> Iterator[Store]:
    with opened(address) as it:
        yield it


def fill(store: Store, layout: CollectionLayout, points: list[Point]) -> str:
    name = f"embedprefs_{uuid.uuid4().hex[:12]}"
    store.ensure(name, layout)
    store.upsert(name, points)
    store.write_record(name, {"fingerprint": "f00"})
    return name


@pytest.fixture
def collection(store, layout, points) -> str:
    """A collection that holds the points and a record."""
    return fill(store, layout, points)


@pytest.fixture(scope="module", params=STORES)
def filled(request, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A store with such a collection, shared by the tests of a module that change nothing."""
    with placed(request.param, tmp_path_factory.mktemp("filled")) as where, opened(where) as store:
        points = make_points(60)
        yield SimpleNamespace(store=store, points=points, collection=fill(store, make_layout(), points))


def make_layout() -> CollectionLayout:
    return CollectionLayout(
        vectors={
            "dense": VectorLayout(DIMENSIONS),
            "small": VectorLayout(SMALL),
            "tokens": VectorLayout(SMALL, "dot", multivector=True),
        },
        sparse_vectors={"words": SparseVectorLayout(idf=True)},
        payload_indexes={
            "kind": PayloadIndex("keyword"),
            "number": PayloadIndex("integer"),
            "when": PayloadIndex("datetime"),
            "hash": PayloadIndex("keyword"),
        },
    )


@pytest.fixture
def layout() -> CollectionLayout:
    return make_layout()


def identifier(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


def make_points(count: int, *, seed: int = 0, first: int = 0) -> list[Point]:
    """Points with every kind of vector and payload, the same for the same arguments."""
    generator = np.random.default_rng(seed)
    points = []
    for number in range(first, first + count):
        dense = generator.normal(size=DIMENSIONS).astype(np.float32)
        places = generator.choice(30, size=5, replace=False)
        points.append(
            Point(
                identifier(number),
                {
                    "dense": dense,
                    "small": dense[:SMALL],
                    "tokens": generator.normal(size=(1 + number % 4, SMALL)).astype(np.float32),
                    "words": SparseVector(places, generator.random(5).astype(np.float32) + 0.1),
                },
                {
                    "number": number,
                    "kind": f"kind {number % 3}",
                    "tags": [f"tag {number % 2}", "all"],
                    "weight": number / 4,
                    "when": f"2024-01-{1 + number % 28:02d}T00:00:00Z",
                    "flag": number % 2 == 0,
                    "nested": {"deep": number % 5},
                    "hash": f"{seed}-{number}",
                    **({"rare": "yes"} if number % 7 == 0 else {}),
                },
            )
        )
    return points


@pytest.fixture
def make() -> Callable[..., list[Point]]:
    """Makes points."""
    return make_points


@pytest.fixture
def faults() -> SimpleNamespace:
    """What the server can do wrong."""
    return SimpleNamespace(Fault=Fault, status=status, reset=reset, hang=hang, dribble=dribble, garble=garble)


@pytest.fixture
def points() -> list[Point]:
    return make_points(60)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    """A key of the machine goes only to the server that QDRANT_URL names."""
    if "QDRANT_URL" not in os.environ:
        monkeypatch.delenv("QDRANT_API_KEY", raising=False)
