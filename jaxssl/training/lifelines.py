"""Connections between the processes of a run, over which each hears at once that another died.

JAX notices a dead process after 100 s, and then aborts the others with pages of C++. Here process 0
listens, each other process holds one connection to it, and the system closes that at once when its
process dies, however it dies; a machine that fell silent is taken for dead after `SILENT` seconds.
Where no connection can be made (a firewall), JAX's own end is what is left.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

BEAT = 5.0  # seconds between signs of life
SILENT = 45.0

# (process, what happened, exit code)
Ended = Callable[[int, str, int], None]


class Lifelines:
    """One process's ends of the connections.

    Args:
      process: Its number; 0 listens.
      ended: Called, in a thread, once, when another process died or said that it failed.
    """

    def __init__(self, process: int, ended: Ended):
        self._process, self._ended = process, ended
        self._peers: list[socket.socket] = []
        self._over = threading.Event()
        self.heard = threading.Event()  # that another process ended

    def listen(self, host: str = "") -> list[Any]:
        """Listen, in process 0, and return what the others need: a port and a password."""
        server = socket.create_server((host, 0))
        password = secrets.token_hex(16)

        def accept() -> None:
            with server:
                while not self._over.is_set():
                    peer, _ = server.accept()
                    threading.Thread(target=self._hear, args=(peer, password), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        return [server.getsockname()[1], password]

    def connect(self, host: str, port: int, password: str) -> None:
        """Connect to process 0.

        Raises:
          OSError: It cannot be reached.
        """
        peer = socket.create_connection((host, port), timeout=10)
        hello = {"process": self._process, "host": socket.gethostname(), "password": password}
        peer.sendall(json.dumps(hello).encode() + b"\n")
        threading.Thread(target=self._hear, args=(peer, None), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def leave(self) -> None:
        """Say that this process ends as it should."""
        self._over.set()
        self._tell({"bye": True})

    def fail(self, message: str, exit_code: int) -> None:
        """Tell the others why this process ends; they end too."""
        self._over.set()
        self._tell({"ended": [self._process, message, exit_code]})

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._tell({"beat": True})

    def _tell(self, message: dict[str, Any], but: socket.socket | None = None) -> None:
        for peer in [one for one in self._peers if one is not but]:
            with contextlib.suppress(OSError):
                peer.sendall(json.dumps(message).encode() + b"\n")

    def _hear(self, peer: socket.socket, password: str | None) -> None:
        peer.settimeout(SILENT)
        who, where, message = 0, "", {}
        with contextlib.suppress(OSError, ValueError), peer, peer.makefile("rb") as lines:
            if password is not None:
                hello = json.loads(lines.readline(1000))
                if hello["password"] != password:
                    return
                who, where = int(hello["process"]), f" on {hello['host']}"
            self._peers.append(peer)
            for line in iter(lambda: lines.readline(10_000), b""):
                message = json.loads(line)
                if "ended" in message or "bye" in message:
                    break
        if peer not in self._peers:
            return
        self._peers.remove(peer)
        if "bye" in message or self._over.is_set():
            return
        self._over.set()
        self.heard.set()
        end = message.get("ended") or [who, f"died{where}", 75]
        self._tell({"ended": end}, but=peer)
        self._ended(*end)
