"""Connections between processes: a death is heard at once, a good end is none."""

import contextlib
import socket
import threading
import time

import pytest

from jaxssl.training.lifelines import Lifelines, relay


class Heard:
    """What one process was told."""

    def __init__(self):
        self.ends, self.told = [], threading.Event()

    def __call__(self, *end):
        self.ends.append(end)
        self.told.set()


def strangers(port):
    """Whoever is no process of the run is shown the door, with a reason where it may be one."""
    for said, answer in (
        (b"PRI * HTTP/2.0\r\n", b""),
        (b"5\n", b""),
        (b'{"ended": [2, "not yours to say", 0]}\n', b""),
        (b'{"process": 9, "count": 3, "host": "x"}\n', b"another process is number 9 already"),
        (b'{"process": 1, "count": 3, "host": "x"}\n', b"another process is number 1 already"),
        (b'{"process": 2, "count": 2, "host": "x"}\n', b"it was told of 2 processes and process 0"),
    ):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(said)
            heard = stranger.makefile("rb").read()
        assert answer in heard
        assert bool(answer) == bool(heard)


def three():
    heard = [Heard() for _ in range(3)]
    lines = [Lifelines(i, 3, heard[i]) for i in range(3)]
    port = lines[0].listen("127.0.0.1", 0)
    lines[1].connect("127.0.0.1", port)
    while lines[0].missing() != [2]:
        time.sleep(0.001)
    strangers(port)
    lines[2].connect("127.0.0.1", port)
    for line in lines:
        assert line.together.wait(10)
    return lines, heard


def die(line):
    """What the system does to the connections of a process that is killed."""
    line._over.set()
    for peer in [*line._peers]:  # which their threads shorten as they hear of it
        with contextlib.suppress(OSError):  # and have closed since
            peer.shutdown(socket.SHUT_RDWR)


def test_a_dead_process_is_named_to_all_others():
    lines, heard = three()
    die(lines[1])
    for i in (0, 2):
        assert heard[i].told.wait(10)
        assert heard[i].ends == [(1, f"died on {socket.gethostname()}", 75)]
    assert heard[1].ends == []


def test_the_death_of_the_first_is_heard_by_all():
    lines, heard = three()
    die(lines[0])
    for i in (1, 2):
        assert heard[i].told.wait(10)
        assert heard[i].ends == [(0, "died", 75)]


def test_a_failure_is_told_with_its_words_and_code():
    lines, heard = three()
    lines[2].fail("the disk is full", 2)
    for i in (0, 1):
        assert heard[i].told.wait(10)
        assert heard[i].ends == [(2, "the disk is full", 2)]


def test_who_leaves_is_not_dead():
    lines, heard = three()
    lines[1].leave()
    die(lines[1])
    while len(lines[0]._peers) > 1:
        time.sleep(0.001)
    assert not heard[0].told.wait(0.1)
    lines[2].fail("told after", 3)
    assert heard[0].told.wait(10)
    assert heard[0].ends == [(2, "told after", 3)]


def test_who_is_refused_ends_with_the_reason():
    heard = [Heard() for _ in range(2)]
    first, second = Lifelines(0, 3, heard[0]), Lifelines(1, 2, heard[1])
    second.connect("127.0.0.1", first.listen("127.0.0.1", 0))
    assert heard[1].told.wait(10)
    assert heard[1].ends == [(0, "it was told of 2 processes and process 0 of 3", 2)]
    assert first.missing() == [1, 2]
    assert heard[0].ends == []
    first.leave()


def test_a_relay_waits_for_the_other_side_and_never_says_that_it_is_gone():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    near = socket.create_connection(("127.0.0.1", relay("127.0.0.1", port)))
    near.settimeout(10)
    near.sendall(b"before it listens")
    with socket.create_server(("127.0.0.1", port)) as server:
        far, _ = server.accept()
    with far:
        assert far.recv(100) == b"before it listens"
        far.sendall(b"an answer")
        assert near.recv(100) == b"an answer"
    near.settimeout(0.1)
    for _ in range(3):  # the second of these is answered by a reset
        near.sendall(b"to nobody")
        with pytest.raises(TimeoutError):
            near.recv(1)
    near.close()


def test_the_port_is_known_though_all_have_come_before_it_is_asked_for():
    """As on a busy machine: the port is closed again when the last one comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    class Waits(Lifelines):
        def _start(self, work, *of):
            super()._start(work, *of)
            if work.__name__ == "accept":
                assert self.together.wait(20)

    other = Lifelines(1, 2, Heard())
    other.connect("127.0.0.1", port)
    first = Waits(0, 2, Heard())
    assert first.listen("127.0.0.1", port) == port
    other.leave()
    first.leave()
