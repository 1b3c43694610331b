"""A switch's HTTP API on loopback: Arista's eAPI and Cisco's NX-API, as far as NAPALM's drivers speak them to ask."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_HELLO = {"show version": {"version": "4.31.2F"}, "show hostname": {"hostname": "r1a"}, "enable": {}}
"""What drivers ask when they connect."""


class SwitchApi:
    """Answers questions by name, and refuses others; who does not log in as expected gets 401."""

    def __init__(self, answers: Mapping[str, Any], authorization: str) -> None:
        self.answers = _HELLO | dict(answers)
        handler = type("Handler", (_Handler,), {"api": self, "authorization": authorization})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    api: SwitchApi
    authorization: str

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        allowed = self.headers["Authorization"] == self.authorization
        text = json.dumps(self._nxapi(asked) if isinstance(asked, list) else self._eapi(asked)).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text) if allowed else 0))
        self.end_headers()
        self.wfile.write(text if allowed else b"")

    def _eapi(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        names = [one["cmd"] if isinstance(one, dict) else one for one in asked["params"]["cmds"]]
        if unknown := [name for name in names if name not in self.api.answers]:
            error = {"code": 1002, "message": f"CLI command '{unknown[0]}' failed: invalid command", "data": []}
            return {"jsonrpc": "2.0", "id": asked["id"], "error": error}
        assert asked["params"]["format"] == "json"
        return {"jsonrpc": "2.0", "id": asked["id"], "result": [self.api.answers[name] for name in names]}

    def _nxapi(self, asked: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [self._nxapi_answer(one["params"]["cmd"], one["method"], one["id"]) for one in asked]

    def _nxapi_answer(self, name: str, method: str, number: int) -> Mapping[str, Any]:
        if name not in self.api.answers:
            error = {"code": -32602, "message": "Invalid params", "data": {"msg": "% Invalid command\n"}}
            return {"jsonrpc": "2.0", "id": number, "error": error}
        key = "msg" if method == "cli_ascii" else "body"
        return {"jsonrpc": "2.0", "id": number, "result": {key: self.api.answers[name]}}

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
