"""A socket on one device that sends any frame and hears nothing but answers: ARP replies, neighbour advertisements.

It listens to all protocols behind a filter in the kernel, since a device that belongs to a bridge or a bond hands the
frames of a single protocol to its master alone. Source: packet(7), Documentation/networking/filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from routed.attach.errors import KernelError

SO_ATTACH_FILTER = 26
ETH_P_ALL = 0x0003
_ALL = 0xFFFF

_LOAD_HALF, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_ANSWERS = (  # code, jump if true, jump if false, operand; offsets as in `routed.attach.frames`, the tag taken off
    (_LOAD_HALF, 0, 0, 12),  # EtherType
    (_JUMP_EQUAL, 0, 2, 0x0806),  # ARP
    (_LOAD_HALF, 0, 0, 20),  # operation
    (_JUMP_EQUAL, 5, 6, 2),  # reply
    (_JUMP_EQUAL, 0, 5, 0x86DD),  # IPv6
    (_LOAD_BYTE, 0, 0, 20),  # next header
    (_JUMP_EQUAL, 0, 3, 58),  # ICMPv6
    (_LOAD_BYTE, 0, 0, 54),  # type
    (_JUMP_EQUAL, 0, 1, 136),  # neighbour advertisement
    (_RETURN, 0, 0, _ALL),
    (_RETURN, 0, 0, 0),
)


def open_ear(device: str) -> socket.socket:
    """Return a socket, not blocking, bound to a device; KernelError when there is none of that name."""
    program = b"".join(struct.pack("=HBBI", *step) for step in _ANSWERS)
    steps = ctypes.create_string_buffer(program, len(program))
    try:
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "open a packet socket") from error
    try:
        # struct sock_fprog: a length and, at the machine's own alignment, a pointer
        ear.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(_ANSWERS), ctypes.addressof(steps)))
        ear.bind((device, ETH_P_ALL))
    except OSError as error:
        ear.close()
        raise KernelError(error.errno or errno.EIO, f"listen on {device}") from error
    return ear
