"""A kernel with RDMA devices, asked over netlink: who sees which, and when one can be moved.

Namespaces are known by their files, be they real ones or any; a connection belongs to one of them, as a netlink socket
does. Messages and refusals are those of Linux 6.1 (drivers/infiniband/core/nldev.c, device.c), spelled out once more.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

from routed.attach.rdma import Rdma

Attributes = dict[int, bytes]
Namespace = tuple[int, int]
OWN = Path("/proc/thread-self/ns/net")


def namespace(path: Path) -> Namespace:
    found = path.stat()
    return found.st_dev, found.st_ino


@dataclass
class FakeDevice:
    index: int
    name: str
    namespace: Namespace
    netdev: int
    """Interface index of the network device beside it, in whichever namespace they meet."""
    address: str
    movable: bool = True


@dataclass
class RdmaKernel:
    """`tree` is like /sys, as the namespace `home` sees it."""

    home: Namespace
    tree: Path
    shared: bool = False
    devices: list[FakeDevice] = field(default_factory=list)
    asked: int = 0
    """How often a connection was opened."""
    _servers: list[threading.Thread] = field(default_factory=list)

    def add(self, name: str, address: str, netdev: int, *, movable: bool = True) -> FakeDevice:
        device = FakeDevice(len(self.devices) + 1, name, self.home, netdev, address, movable)
        self.devices.append(device)
        (self._folder(device) / name).mkdir(parents=True)
        return device

    def end(self, dying: Namespace) -> None:
        """Let a namespace die: what is in it goes home."""
        for device in self.devices:
            if device.namespace == dying:
                self._move(device, self.home)

    def connect(self, path: Path = OWN) -> Rdma:
        """Open a netlink socket in a namespace, the calling thread's unless another one is named."""
        self.asked += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._servers.append(threading.Thread(target=self._serve, args=(theirs, namespace(path))))
        self._servers[-1].start()
        return Rdma(ours, self.tree)

    def close(self) -> None:
        """Wait for all who serve a socket that is closed by now."""
        for server in self._servers:
            server.join()

    def _serve(self, connection: socket.socket, here: Namespace) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                self._reply(connection, here, data)

    def _reply(self, connection: socket.socket, here: Namespace, data: bytes) -> None:
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
        assert length == len(data)
        assert (kind >> 10, flags & 1) == (5, 1)
        try:
            found = self._answer(kind & 0x3FF, _attributes(data[16:]), here, is_dump=bool(flags & 0x300))
            code = 0
        except OSError as error:
            found, code = [], -(error.errno or errno.EIO)
        for each in found:
            connection.send(_message(kind, sequence, b"".join(map(_attribute, each.items()))))
        end = struct.pack("=i", code) + (b"" if flags & 0x300 and not code else data[:16])
        connection.send(_message(3 if flags & 0x300 and not code else 2, sequence, end))

    def _answer(self, command: int, asked: Attributes, here: Namespace, *, is_dump: bool) -> list[Attributes]:
        seen = [one for one in self.devices if self.shared or one.namespace == here]
        if command == 6:  # SYS_GET
            return [{66: struct.pack("=B", self.shared)}]
        if command == 1 and is_dump:
            return [{1: struct.pack("=I", one.index), 2: one.name.encode() + b"\0"} for one in seen]
        named = [one for one in seen if struct.pack("=I", one.index) == asked.get(1)]
        if not named:
            raise OSError(errno.EINVAL, "no such device in this namespace")
        if command == 5 and is_dump:  # PORT_GET
            port = {1: asked[1], 2: named[0].name.encode() + b"\0", 3: struct.pack("=I", 1)}
            return [port | {50: struct.pack("=I", named[0].netdev), 51: b"eth\0"}]
        assert command == 2, "GET, SET, PORT_GET and SYS_GET are all that there is"
        if self.shared or not named[0].movable:
            raise OSError(errno.EOPNOTSUPP, "shared, or a driver that cannot")
        (descriptor,) = struct.unpack("=I", asked[68])
        found = os.fstat(descriptor)
        self._move(named[0], (found.st_dev, found.st_ino))
        return []

    def _move(self, device: FakeDevice, to: Namespace) -> None:
        here = self._folder(device) / device.name
        if device.namespace == self.home:
            here.rmdir()
        device.namespace = to
        if to == self.home:
            here.mkdir()

    def _folder(self, device: FakeDevice) -> Path:
        return self.tree / "bus/pci/devices" / device.address / "infiniband"


def _attributes(data: bytes) -> Attributes:
    found, offset = {}, 0
    while offset < len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found[kind] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _attribute(item: tuple[int, bytes]) -> bytes:
    kind, value = item
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _message(kind: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body
