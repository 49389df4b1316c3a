"""Connections between processes: a death is heard at once, a good end is none."""

import socket
import threading
import time

from jaxssl.training.lifelines import Lifelines


class Heard:
    """What one process was told."""

    def __init__(self):
        self.ends, self.told = [], threading.Event()

    def __call__(self, *end):
        self.ends.append(end)
        self.told.set()


def three():
    heard = [Heard() for _ in range(3)]
    lines = [Lifelines(i, heard[i]) for i in range(3)]
    port, password = lines[0].listen("127.0.0.1")
    for line in lines[1:]:
        line.connect("127.0.0.1", port, password)
    while len(lines[0]._peers) < 2:
        time.sleep(0.001)
    return lines, heard, port


def die(line):
    """What the system does to the connections of a process that is killed."""
    line._over.set()
    for peer in [*line._peers]:  # which their threads shorten as they hear of it
        peer.shutdown(socket.SHUT_RDWR)


def test_a_dead_process_is_named_to_all_others():
    lines, heard, _ = three()
    die(lines[1])
    for i in (0, 2):
        assert heard[i].told.wait(10)
        assert heard[i].ends == [(1, f"died on {socket.gethostname()}", 75)]
    assert heard[1].ends == []


def test_the_death_of_the_first_is_heard_by_all():
    lines, heard, _ = three()
    die(lines[0])
    for i in (1, 2):
        assert heard[i].told.wait(10)
        assert heard[i].ends == [(0, "died", 75)]


def test_a_failure_is_told_with_its_words_and_code():
    lines, heard, _ = three()
    lines[2].fail("the disk is full", 2)
    for i in (0, 1):
        assert heard[i].told.wait(10)
        assert heard[i].ends == [(2, "the disk is full", 2)]


def test_who_leaves_is_not_dead_and_a_stranger_is_nobody():
    lines, heard, port = three()
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b'{"process": 9, "host": "x", "password": "guess"}\n')
        assert stranger.recv(1) == b""  # shown the door
    lines[1].leave()
    die(lines[1])
    while len(lines[0]._peers) > 1:
        pass
    assert not heard[0].told.wait(0.1)
    lines[2].fail("told after", 3)
    assert heard[0].told.wait(10)
    assert heard[0].ends == [(2, "told after", 3)]
