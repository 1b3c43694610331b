"""A switch's ssh server on loopback, with a host key of its own: keeps the passwords it is told, and lets nobody in.

What matters is what clients tell before they could know.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

import paramiko


class SwitchSsh(paramiko.ServerInterface):
    """One switch; its passwords are in the order that they came."""

    def __init__(self) -> None:
        self.passwords: list[str] = []
        self._key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sessions: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def known_host(self) -> str:
        """Its line of a known_hosts file."""
        return f"[127.0.0.1]:{self.port} {self._key.get_name()} {self._key.get_base64()}\n"

    def check_auth_password(self, _: str, password: str) -> int:
        """Remember it, and refuse."""
        self.passwords.append(password)
        refused: int = paramiko.AUTH_FAILED
        return refused

    def get_allowed_auths(self, _: str) -> str:
        """Return that passwords are wanted."""
        return "password"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends its accept
        self._thread.join()
        self._listener.close()
        for session in self._sessions:
            session.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                session = paramiko.Transport(connection)
                session.add_server_key(self._key)
                self._sessions.append(session)
                session.start_server(event=threading.Event(), server=self)
