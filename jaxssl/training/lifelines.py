"""Connections between the processes of a run: they come together over them, and hear of a death.

JAX waits minutes for a process without saying for which, notices a dead one after 100 s, and when
process 0 is gone it aborts the others with pages of C++. Here process 0 first listens where its
coordination service will be, each other process holds one connection to it, and the system closes
that at once when its process dies, however it dies; a machine that fell silent is taken for dead
after `SILENT` seconds. JAX's own connection to process 0 goes through `relay`, which does not say
that process 0 is gone: JAX learns of no death before this process has ended with its line.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

BEAT = 5.0  # seconds between signs of life
SILENT = 45.0
AGAIN = 0.1  # seconds until who does not listen yet is called again

# (process, what happened, exit code)
Ended = Callable[[int, str, int], None]


class Lifelines:
    """One process's ends of the connections.

    Args:
      process: Its number; 0 listens.
      count: How many processes there are.
      ended: Called, in a thread, once, when another process died or said that it failed.
    """

    def __init__(self, process: int, count: int, ended: Ended):
        self._process, self._count, self._ended = process, count, ended
        self._peers: dict[socket.socket, int] = {}
        self._taking = threading.RLock()
        self._over = threading.Event()
        self.together = threading.Event()  # every process has come
        self.heard = threading.Event()  # that another process ended
        self.reason = ""  # why process 0 could not be reached

    def missing(self) -> list[int]:
        """Return the numbers of those that this process waits for and that have not come."""
        with self._taking:
            awaited = {0} if self._process else {*range(1, self._count)}
            return sorted(awaited - {*self._peers.values()})

    def listen(self, host: str, port: int) -> int:
        """Take the others at a port, in a thread of process 0, until all have come; return it.

        Raises:
          OSError: The port cannot be used.
        """
        server = listening(host, port)
        port = int(server.getsockname()[1])  # before the thread, which may be quick to close it
        server.settimeout(AGAIN)

        def accept() -> None:
            with server:
                while self.missing() and not self._over.is_set():
                    with contextlib.suppress(TimeoutError):
                        self._start(self._hear, server.accept()[0])
            if not self.missing():  # the port is free for JAX's service
                self._tell({"together": True})
                self.together.set()

        self._start(accept)
        self._start(self._beat)
        return port

    def connect(self, host: str, port: int) -> None:
        """Connect to process 0, in a thread, as soon as it listens."""

        def call() -> None:
            while not self._over.is_set():
                try:
                    peer = socket.create_connection((host, port), timeout=10)
                    hello = {"process": self._process, "count": self._count}
                    peer.sendall(_line(hello | {"host": socket.gethostname()}))
                    self.reason = "another program answers there"  # unless it takes this one
                    self._hear(peer)
                except OSError as error:
                    self.reason = error.strerror or str(error)
                self._over.wait(AGAIN)

        self._start(call)
        self._start(self._beat)

    def leave(self) -> None:
        """Say that this process ends as it should."""
        self._over.set()
        self._tell({"bye": True})

    def fail(self, message: str, exit_code: int) -> None:
        """Tell the others why this process ends; they end too."""
        self._over.set()
        self._tell({"ended": [self._process, message, exit_code]})

    def _start(self, work: Callable[..., None], *of: Any) -> None:
        threading.Thread(target=work, args=of, daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._tell({"beat": True})

    def _tell(self, message: dict[str, Any], but: socket.socket | None = None) -> None:
        for peer in [one for one in [*self._peers] if one is not but]:
            with contextlib.suppress(OSError):
                peer.sendall(_line(message))

    def _take(self, peer: socket.socket, first: dict[str, Any]) -> int:
        """Count a connection among those of the run by its first line; return whose it is.

        Raises:
          ValueError, KeyError, TypeError: It is of no process of this run.
        """
        if self._process:
            self._peers[peer] = int(first["welcome"])
            return self._peers[peer]
        who, count, reason = int(first["process"]), int(first["count"]), ""
        with self._taking:
            if count != self._count:
                reason = f"it was told of {count} processes and process 0 of {self._count}"
            elif who not in self.missing():
                reason = f"another process is number {who} already"
            peer.sendall(_line({"ended": [0, reason, 2]} if reason else {"welcome": 0}))
            if reason:
                raise ValueError(reason)
            self._peers[peer] = who
        return who

    def _hear(self, peer: socket.socket) -> None:
        """Hear what a connection says until its end, and end this process where that is one."""
        peer.settimeout(SILENT)
        who, where, message = 0, "", {}
        nonsense = contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError)
        with nonsense, peer, peer.makefile("rb") as lines:
            message = _read(lines.readline(1000))
            if "ended" not in message:
                who = self._take(peer, message)
                where = f" on {message['host']:.80}" if "host" in message else ""
                for line in iter(lambda: lines.readline(10_000), b""):
                    message = _read(line)
                    if "together" in message:
                        self.together.set()
                    elif "beat" not in message:
                        break
        known = self._peers.pop(peer, None) is not None
        if not (known or (self._process and "ended" in message)):
            return  # a stranger
        if "bye" in message or self._over.is_set():
            return
        self._over.set()
        self.heard.set()
        end = message.get("ended") or [who, f"died{where}", 75]
        self._tell({"ended": end}, but=peer)
        self._ended(*end)


def relay(host: str, port: int) -> int:
    """Pass on what comes to a port of this machine, and the answers; return that port.

    A connection that the other side closed, or lost, stays open on this side, without a word.

    Args:
      host: Of the other side.
      port: Where it listens, or will soon.
    """
    server = listening("127.0.0.1", 0)
    held: set[socket.socket] = set()  # which would be closed where nobody holds them

    def start(work: Callable[..., None], *of: socket.socket) -> None:
        threading.Thread(target=work, args=of, daemon=True).start()

    def accept() -> None:
        while True:
            near, _ = server.accept()
            held.add(near)
            start(there, near)

    def there(near: socket.socket) -> None:
        far = None
        while far is None:
            try:
                far = socket.create_connection((host, port), timeout=10)
            except OSError:
                time.sleep(AGAIN)
        far.settimeout(None)
        start(back, far, near)
        with far, near, contextlib.suppress(OSError):
            while part := near.recv(2**16):
                with contextlib.suppress(OSError):  # gone: this side hears nothing of it
                    far.sendall(part)
        held.discard(near)

    def back(far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := far.recv(2**16):
                near.sendall(part)

    start(accept)
    return int(server.getsockname()[1])


def listening(host: str, port: int) -> socket.socket:
    """Listen at a port, at every address of this machine where the host is "".

    Raises:
      OSError: Another program listens there.
    """
    if host == "" and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(line: bytes) -> dict[str, Any]:
    """Read what `_line` wrote.

    Raises:
      ValueError, TypeError: It is something else.
    """
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("no object")
    if "ended" in message:
        who, what, code = message["ended"]
        message["ended"] = [int(who), str(what), int(code)]
    return message
