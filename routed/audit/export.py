"""What an agent exports of its own server, as JSON and back. Versioned: agents and audits are not updated together.

Fields are those of `ServerView`; one that is added later is ignored by older readers, and anything else that changes
is a new version.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from routed.audit.model import ServerView, Unobserved

SCHEMA = "routed.audit.export/1"
_VIEW = TypeAdapter(ServerView)


class ExportError(Exception):
    """This is no export that can be read; the message says why."""


def encode(view: ServerView | Unobserved) -> dict[str, Any]:
    """Return the JSON object: ``view``, or ``unobserved`` with the reason why the agent itself cannot tell."""
    if isinstance(view, Unobserved):
        return {"schema": SCHEMA, "view": None, "unobserved": view.reason}
    return {"schema": SCHEMA, "view": _VIEW.dump_python(view, mode="json"), "unobserved": None}


def decode(document: Any) -> ServerView | Unobserved:
    """Return what `encode` was given; ExportError for another version and for anything else."""
    if not isinstance(document, dict) or "schema" not in document:
        raise ExportError("this is not the export of an agent")
    if document["schema"] != SCHEMA:
        raise ExportError(f"an export of version {document['schema']!r}, and this is read: {SCHEMA!r}; update routed")
    if document.get("unobserved") is not None:
        return Unobserved(str(document["unobserved"]))
    try:
        view = _VIEW.validate_python(document.get("view"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ExportError(f"the agent's export is not as version 1 should be: {where}: {first['msg']}") from error
    if view.at.tzinfo is None:
        raise ExportError(f"the agent's export is of {view.at}, which names no time zone")
    return view
