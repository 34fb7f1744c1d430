"""Opening a store by its address."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from embedprefs.errors import InputError, ResourceError
from embedprefs.preferences.index_limits import API_KEY_VARIABLE, STORE_ADDRESSES, store_address_problem
from embedprefs_qdrant.stores.batching import MAX_BATCH_BYTES
from embedprefs_qdrant.stores.client import DEFAULT_TIMEOUT, ClientStore
from embedprefs_qdrant.stores.client_calls import limit_body_time
from embedprefs_qdrant.stores.edge import EdgeStore
from embedprefs_qdrant.stores.protocol import Store
from embedprefs_qdrant.stores.retry import Clock, RetryPolicy

if TYPE_CHECKING:
    from pydantic import SecretStr
    from qdrant_client import QdrantClient

__all__ = ["API_KEY_VARIABLE", "SCHEMES", "open_store"]

#: Every kind of address, with what it leads to.
SCHEMES = STORE_ADDRESSES

_REST_PORT = 6333
_GRPC_PORT = 6334


def open_store(
    target: str | QdrantClient,
    *,
    create: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
    api_key: SecretStr | str | None = None,
    retry: RetryPolicy | None = None,
    max_batch_bytes: int = MAX_BATCH_BYTES,
    lock_wait: float = 3.0,
    clock: Clock | None = None,
) -> Store:
    """Open the place where points are kept.

    Args:
        target: `edge:PATH`, `http://HOST`, `https://HOST`, `grpc://HOST`, `grpcs://HOST`, `local:PATH`, `:memory:`,
            or a ready `QdrantClient`, which stays the caller's: its own timeout and key apply, and closing the store
            leaves it open.
        create: Whether the folder of `edge:` and `local:` may be made.
        timeout: Seconds for one request to a server, rounded up.
        api_key: For a server; None reads the environment variable QDRANT_API_KEY. It is shown nowhere.
        retry: How patient to be with a server.
        max_batch_bytes: Largest estimated size of one batch of points, in bytes.
        lock_wait: Seconds to wait for an embedded collection that is open elsewhere.
        clock: Time and chance; for tests.

    Raises:
        InputError: The address is of no known kind, is incomplete, carries a secret, or its folder does not exist and
            may not be made.
        ResourceError: Another process has the folder of `local:` open.
        StoreError: The server does not answer (an `embedprefs.errors.UnavailableError`).
    """
    options: dict[str, Any] = {
        "timeout": timeout,
        "retry": retry,
        "max_batch_bytes": max_batch_bytes,
        "clock": clock or Clock(),
    }
    if not isinstance(target, str):
        return _around_client(target, options)
    problem = store_address_problem(target)
    if problem is not None:
        raise InputError(str(problem))
    if target == ":memory:":
        return _memory(options)
    scheme, _, rest = target.partition(":")
    scheme = scheme.lower()
    if scheme == "edge":
        return EdgeStore(Path(rest).expanduser(), create=create, lock_wait=lock_wait, max_batch_bytes=max_batch_bytes)
    if scheme == "local":
        return _local(target, Path(rest).expanduser(), create, options)
    connect = _grpc if scheme in ("grpc", "grpcs") else _rest
    return connect(urlsplit(target), _key(api_key), options)


def _key(given: SecretStr | str | None) -> str | None:
    from pydantic import SecretStr

    if isinstance(given, SecretStr):
        return given.get_secret_value()
    return given or os.environ.get(API_KEY_VARIABLE) or None


def _rest(parts: SplitResult, key: str | None, options: dict[str, Any]) -> Store:
    from qdrant_client import QdrantClient

    port = parts.port or _REST_PORT
    path = parts.path.rstrip("/")
    client = QdrantClient(
        url=f"{parts.scheme}://{_host(parts)}:{port}{path}",
        api_key=key,
        timeout=math.ceil(options["timeout"]),
        # Announced by connect() instead, which waits for the answer.
        check_compatibility=False,
        event_hooks={"response": [limit_body_time(options["clock"])]},
    )
    url = f"{parts.scheme}://{_host(parts)}:{port}{path}"
    return _connected(ClientStore(client, url=url, kind="server", transport="REST", owns_client=True, **options))


def _grpc(parts: SplitResult, key: str | None, options: dict[str, Any]) -> Store:
    from qdrant_client import QdrantClient

    port = parts.port or _GRPC_PORT
    client = QdrantClient(
        host=parts.hostname,
        grpc_port=port,
        prefer_grpc=True,
        https=parts.scheme == "grpcs",
        api_key=key,
        timeout=math.ceil(options["timeout"]),
        check_compatibility=False,
    )
    url = f"{parts.scheme}://{_host(parts)}:{port}"
    return _connected(ClientStore(client, url=url, kind="server", transport="gRPC", owns_client=True, **options))


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]" if ":" in host else host


def _connected(store: ClientStore) -> Store:
    try:
        store.connect()
    except BaseException:
        store.close()
        raise
    return store


def _memory(options: dict[str, Any]) -> Store:
    from qdrant_client import QdrantClient

    return ClientStore(
        QdrantClient(location=":memory:"),
        url=":memory:",
        kind="local",
        transport="in process",
        persistent=False,
        owns_client=True,
        **options,
    )


def _local(target: str, folder: Path, create: bool, options: dict[str, Any]) -> Store:
    from qdrant_client import QdrantClient

    if not create and not folder.exists():
        raise InputError(f"{folder}: There is no such folder.\n  Index documents into it first.")
    if folder.exists() and not folder.is_dir():
        raise ResourceError(f"{folder}: This is a file; {target!r} needs a folder.")
    in_use = ResourceError(
        f"{folder}: The folder is open elsewhere: in another process, or in another client of this one.\n"
        "  Allowed: the client's emulation serves one client at a time\n"
        "  Close the other one or hand its client on; to share the data among processes, run a Qdrant server and "
        "open http://HOST:6333 instead."
    )
    if _is_in_use(folder):
        raise in_use
    try:
        # Calls take turns, whatever thread they come from, so that SQLite need not insist on one thread.
        client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        raise in_use from error  # another one was faster, just now
    return ClientStore(
        client, url=f"local:{folder.absolute()}", kind="local", transport="in process", owns_client=True, **options
    )


def _is_in_use(folder: Path) -> bool:
    """Whether another client has the folder open.

    A client that finds this out by itself has read every point by then, and leaves its lock file and its databases
    open when it fails.
    """
    import portalocker

    lock = folder / ".lock"
    if not lock.exists():
        return False
    with lock.open("r+", encoding="utf-8") as file:
        try:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException:
            return True
        portalocker.unlock(file)
    return False


def _around_client(client: QdrantClient, options: dict[str, Any]) -> Store:
    from qdrant_client import QdrantClient

    if not isinstance(client, QdrantClient):
        raise InputError(
            f"A store cannot be made of a {type(client).__name__}.\n  Allowed: {', '.join(SCHEMES)}, or a QdrantClient"
        )
    made_with = client.init_options
    if made_with["location"] == ":memory:":
        return ClientStore(client, url=":memory:", kind="local", transport="in process", persistent=False, **options)
    if made_with["path"] is not None:
        url = f"local:{Path(made_with['path']).absolute()}"
        return ClientStore(client, url=url, kind="local", transport="in process", **options)
    where = urlsplit(made_with["url"] or made_with["location"] or f"//{made_with['host'] or 'localhost'}")
    grpc = bool(made_with["prefer_grpc"])
    port = made_with["grpc_port"] if grpc else where.port or made_with["port"]
    scheme = ("grpc" if grpc else "http") + ("s" if where.scheme == "https" or made_with["https"] else "")
    url = f"{scheme}://{_host(where)}" + (f":{port}" if port else "")
    options["timeout"] = made_with["timeout"] or options["timeout"]
    return _connected(ClientStore(client, url=url, kind="server", transport="gRPC" if grpc else "REST", **options))
