"""The server of `jaxssl label`: one page on this machine, and what it asks for.

It listens on 127.0.0.1 alone. Who knows the address, which has a random token, may label; a page of
another site does not know it, and is refused besides by the Host and Origin that a browser sends
(DNS rebinding, cross-site requests). No file is named by a request: images are asked for by number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import io
import json
import secrets
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jaxssl.analysis.atlas import of_file
from jaxssl.analysis.label_table import LabelTable
from jaxssl.analysis.tables import Together
from jaxssl.errors import InputError

_LARGEST = 256  # pixels of a picture's longer side
_BODY = 1 << 20  # bytes of a request


class Session:
    """What is labelled, safe to be asked from several threads.

    Args:
        images: All images.
        table: Where labels go.
        groups: Rows of look-alikes, those without a label at the start; at least one, if an empty
            one.
        counts: Labels that were there before, by class.
    """

    def __init__(
        self,
        images: Together,
        table: LabelTable,
        groups: Sequence[Sequence[int]],
        counts: Mapping[str, int],
    ):
        self.images, self.table = images, table
        self.groups = [[*group] for group in groups]
        self._counts = counts
        self._open = [row for group in groups for row in group]
        self._lock = threading.Lock()
        # The order of the keys: the classes there were, then the new ones as they came.
        self._classes = list(dict.fromkeys([*sorted(counts), *table.labels.values()]))

    def state(self, group: int, by: int = 1) -> dict[str, Any]:
        """Return what the page shows: a group's images without a label, classes, counts.

        Args:
            group: Its number; one that is done gives way to the next that is not.
            by: 1, or -1 for the one before.
        """
        with self._lock:
            return self._state(group, by)

    def assign(self, rows: Sequence[int], label: str, group: int) -> dict[str, Any]:
        """Save a label, then return what the page shows."""
        with self._lock:
            self.table.assign(rows, label)
            self._classes += [label.strip()] * (label.strip() not in self._classes)
            return self._state(group)

    def undo(self, group: int) -> dict[str, Any]:
        """Take the last change back, then return what the page shows: the group it was of."""
        with self._lock:
            rows = [row for row in self.table.undo() if row not in self.table.labels]
            home = [i for i, members in enumerate(self.groups) if set(rows) & set(members)]
            if rows and not home:  # labelled on another day
                self.groups.append(rows)
                self._open += rows
                home = [len(self.groups) - 1]
            return self._state(home[0] if home else group)

    @property
    def left(self) -> int:
        """How many images have no label."""
        return sum(row not in self.table.labels for row in self._open)

    def _state(self, group: int, by: int = 1) -> dict[str, Any]:
        labels = self.table.labels
        left = [[row for row in members if row not in labels] for members in self.groups]
        many = len(left)
        group %= many
        turn = [(group + by * i) % many for i in range(many)]
        group = next((i for i in turn if left[i]), group)
        counts = Counter(self._counts) + Counter(labels.values())
        images = self.images
        return {
            "group": group,
            "groups": many,
            "images": [
                {
                    "row": row,
                    "id": images.ids[row],
                    "path": images.paths[row],
                    "um": images.micrometres[row],
                }
                for row in left[group]
            ],
            "classes": [{"name": name, "count": counts[name]} for name in self._classes],
            "left": sum(map(len, left)),
            "total": len(self._open),
            "changes": self.table.changes,
            "table": str(self.table.path),
        }

    def picture(self, row: int) -> tuple[bytes, str]:
        """Return an image's picture and its type: its file in its own shape, else the table's."""
        image = of_file(self.images.paths[row], self.images.sides[row], _LARGEST)
        if image is None:
            return self.images.pictures[row], "image/png"
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue(), "image/png"


@dataclasses.dataclass(frozen=True)
class _Answer:
    body: bytes
    kind: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK
    policy: str = "default-src 'none'; frame-ancestors 'none'"


class LabelServer(ThreadingHTTPServer):
    """The server, and the address to open.

    Attributes:
        address: With the token.
    """

    daemon_threads = True

    def __init__(self, session: Session, port: int):
        self.session, self.token = session, secrets.token_urlsafe(18)
        super().__init__(("127.0.0.1", port), _Handler)
        port = self.server_address[1]
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.address = f"http://127.0.0.1:{port}/{self.token}/"


def make_server(session: Session, port: int = 0) -> LabelServer:
    """Bind the server; `serve_forever` starts it.

    Raises:
        InputError: The port is taken or not allowed.
    """
    try:
        return LabelServer(session, port)
    except OSError as error:
        raise InputError(f"--port {port} cannot be used: {error.strerror}") from None


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    server_version, sys_version = "jaxssl", ""
    protocol_version = "HTTP/1.1"
    timeout = 60  # of a connection that says nothing

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on the terminal: the address holds the token."""

    def do_GET(self) -> None:
        """Answer for the page, its state or a picture."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Save a label, or take one back."""
        self._answer(self._post)

    def _answer(self, make: Any) -> None:
        try:
            answer = self._refused() or make()
        except InputError as error:
            answer = _failed(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            said = f"not saved: {error.strerror or error}"
            answer = _failed(HTTPStatus.INSUFFICIENT_STORAGE, said)
        except (ValueError, KeyError, TypeError, IndexError):
            answer = _failed(HTTPStatus.BAD_REQUEST, "no such request")
        if answer.status != HTTPStatus.OK:
            self.close_connection = True  # a body may be unread
        with contextlib.suppress(ConnectionError):
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Content-Security-Policy", answer.policy)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)

    def _refused(self) -> _Answer | None:
        """Refuse what does not come from this page in a browser on this machine."""
        hosts = self.server.hosts
        if self.headers.get_all("Host", []) not in [[host] for host in hosts]:
            return _failed(HTTPStatus.MISDIRECTED_REQUEST, "this machine only")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            return _failed(HTTPStatus.FORBIDDEN, "this page only")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return _failed(HTTPStatus.FORBIDDEN, "this page only")
        token = self.path.split("/")[1] if self.path.startswith("/") else ""
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return _failed(HTTPStatus.NOT_FOUND, "not here")
        return None

    def _get(self) -> _Answer:
        from jaxssl.analysis.page import label_page  # with matplotlib, whose colours it has

        address = urlsplit(self.path)
        session, parts = self.server.session, address.path.split("/")[2:]
        match parts:
            case [""]:
                page, policy = label_page(session.state(0))
                return _Answer(page.encode(), "text/html; charset=utf-8", policy=policy)
            case ["state"]:
                asked = parse_qs(address.query)
                group, back = asked.get("group", ["0"])[0], asked.get("back") == ["1"]
                return _json(session.state(int(group), -1 if back else 1))
            case ["picture", row] if row.isdecimal() and int(row) < len(session.images):
                body, kind = session.picture(int(row))
                if body:
                    return _Answer(body, kind)
        return _failed(HTTPStatus.NOT_FOUND, "not here")

    def _post(self) -> _Answer:
        if self.headers.get("Content-Type", "").split(";")[0] != "application/json":
            return _failed(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON only")
        length = int(self.headers.get("Content-Length", ""))
        if not 0 <= length <= _BODY:
            return _failed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large")
        asked = json.loads(self.rfile.read(length))
        if not isinstance(asked, dict):
            return _failed(HTTPStatus.BAD_REQUEST, "no such request")
        session, group = self.server.session, int(asked.get("group", 0))
        match urlsplit(self.path).path.split("/")[2:]:
            case ["assign"]:
                rows, label = asked["rows"], asked["label"]
                fits = isinstance(label, str) and isinstance(rows, list) and rows
                if not fits or not all(
                    type(row) is int and 0 <= row < len(session.images) for row in rows
                ):
                    return _failed(HTTPStatus.BAD_REQUEST, "rows of images and a label")
                return _json(session.assign(rows, label, group))
            case ["undo"]:
                return _json(session.undo(group))
        return _failed(HTTPStatus.NOT_FOUND, "not here")


def _json(value: Any) -> _Answer:
    return _Answer(json.dumps(value).encode())


def _failed(status: HTTPStatus, why: str) -> _Answer:
    return _Answer(json.dumps({"error": why}).encode(), status=status)
