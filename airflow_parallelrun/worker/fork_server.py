# SPDX-License-Identifier: Apache-2.0
"""The fork server: has imported what the script imports of other people's, and forks workers that have it.

``python bootstrap.py fork_server FD PARENT``. A worker that is forked is ready in a fraction of the time
that importing its libraries takes, and shares their memory. Neither the script nor any other file of its
project is imported here: these a worker imports itself, in an environment of its own.

A worker is no child of this process: it is forked by an intermediate one that ends at once, while the node
takes in orphans. So it is the node's child, as one is that the node has started itself: the node waits for
it, and it dies with the node and not with the fork server.

One JSON array per message on the socket FD. Node to server::

    ["import", [[module, names], …]]   once; answered by ["ready", [module, …]]
    ["fork", tag, node]                with the worker's five descriptors; answered by ["forked", pid]
"""

from __future__ import annotations

import array
import gc
import json
import os
import signal
import socket
import sys
import time
from typing import Any, List, NamedTuple, Optional, Tuple

from . import process
from .guardian import TAG_VARIABLE

DESCRIPTORS = 5  # channel, page, segment, stdout, stderr
_MESSAGE_BYTES = 1 << 18


def warm(wanted: List[List[Any]]) -> List[str]:
    """Import what can be imported, and return it; the worker says what is wrong with the rest.

    :param wanted: modules, each with what is taken from it, which may be modules, too
    """
    done = []
    for module, names in wanted:
        try:
            __import__(module, {}, {}, names)
        except BaseException as error:  # noqa: BLE001 - other people's code; SystemExit too is theirs
            print(f"fork server: cannot import {module}: {error!r}", file=sys.stderr)
        else:
            done.append(module)
    return done


class Worker(NamedTuple):
    """What a forked process needs to become a worker.

    :param descriptors: channel, page, segment, stdout, stderr
    :param between: its parent, which leaves at once
    :param tag: what marks it in its environment
    :param node: the process that takes it in
    """

    descriptors: List[int]
    between: int
    tag: str
    node: int

    def work(self) -> None:
        """Be a worker process to the end."""
        channel, page, segment, stdout, stderr = self.descriptors
        os.setsid()
        for fd, standard in ((stdout, 1), (stderr, 2)):
            os.dup2(fd, standard)
            os.close(fd)
        os.environ[TAG_VARIABLE] = self.tag
        if "numpy" in sys.modules:  # Python's own generator is seeded anew after a fork; this one is not
            sys.modules["numpy"].random.seed()
        while os.getppid() == self.between:
            time.sleep(0.0005)
        process.main(channel, page, segment, self.node)


def serve(channel: socket.socket) -> Optional[Worker]:
    """Answer the node until it is gone; returns in each forked process, too, with what that is."""
    while True:
        message, descriptors = _receive(channel)
        if not message:
            return None
        kind, *values = message
        if kind == "import":
            done = warm(*values)
            for stream in (sys.stdout, sys.stderr):  # what waits there would be printed by each worker, too
                stream.flush()
            gc.freeze()  # no collection in a worker looks at what it shares, which would copy its memory
            _send(channel, ["ready", done])
            continue
        pid, between = _fork()
        if not pid:
            return Worker(descriptors, between, *values)
        for fd in descriptors:
            os.close(fd)
        _send(channel, ["forked", pid])


def _fork() -> Tuple[int, int]:
    """Fork a process that becomes the node's child.

    :return: its number, 0 in itself; and the number of its parent, which leaves at once
    """
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        between = os.getpid()
        worker = os.fork()
        if worker:
            os.write(writing, str(worker).encode())
            os._exit(0)
        os.close(reading)
        os.close(writing)
        return 0, between
    os.close(writing)
    # Once that has ended, the kernel has given its child to the node.
    os.waitpid(between, 0)
    answer = os.read(reading, 32)
    os.close(reading)
    return int(answer), between


def _receive(channel: socket.socket) -> Tuple[List[Any], List[int]]:
    """Return the next message and the descriptors that came with it; nothing when the node is gone."""
    room = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, _, _ = channel.recvmsg(_MESSAGE_BYTES, room)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content)
    return (json.loads(data) if data else []), list(descriptors)


def _send(channel: socket.socket, message: List[Any]) -> None:
    channel.send(json.dumps(message).encode())


def main(fd: int, parent: int) -> None:
    """Run the fork server; its descriptor was inherited from the node."""
    process.die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(fd, False)
    with socket.socket(fileno=fd) as channel:
        try:
            worker = serve(channel)
        except (BrokenPipeError, ConnectionResetError):
            return  # the node is gone
    if worker is not None:
        worker.work()
