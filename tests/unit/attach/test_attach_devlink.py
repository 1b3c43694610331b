"""What is sent to devlink, byte by byte (include/uapi/linux/devlink.h)."""

from __future__ import annotations

import struct
import sys

from pyroute2.netlink.devlink import DEVLINK_CMD_ESWITCH_GET, DEVLINK_CMD_ESWITCH_SET

from routed.attach.devlink import message

_HEADERS = 16 + 4
"""Of netlink and generic netlink."""


def attributes(data: bytes) -> dict[int, bytes]:
    found, offset = {}, _HEADERS
    while offset < len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found[kind] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def encoded(command: int, *more: tuple[str, int]) -> bytes:
    made = message("0000:03:00.1", command, *more)
    made["header"] = {"type": 20, "flags": 5, "sequence_number": 0, "pid": 0}
    made.encode()
    return bytes(made.data)


def test_a_question_names_bus_and_device() -> None:
    data = encoded(DEVLINK_CMD_ESWITCH_GET)
    assert data[16] == 29
    assert attributes(data) == {1: b"pci\0", 2: b"0000:03:00.1\0"}


def test_switchdev_is_mode_one() -> None:
    data = encoded(DEVLINK_CMD_ESWITCH_SET, ("DEVLINK_ATTR_ESWITCH_MODE", 1))
    assert data[16] == 30
    assert attributes(data)[25] == (1).to_bytes(2, sys.byteorder)
