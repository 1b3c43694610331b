"""A plan in a vendor's words: Jinja2 templates, and a list of what is left to fill in.

Writes no file and asks no switch. The syntax is that of the vendors' manuals; docs/tor-config.md tells what of it was
run.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from jinja2 import Environment, PackageLoader, StrictUndefined

from routed.torconfig.model import Placeholder, Plan
from routed.torconfig.plan import PlanError
from routed.torconfig.vendor_name import VendorName
from routed.torconfig.vendors import VENDORS, Document, Vendor, problems, vlan

_PLACEHOLDER = re.compile(r"<[a-z][a-z0-9-]+>")


class VendorError(PlanError):
    """The vendor cannot express what the rack file asks for; every problem is a line of the message."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One file of one ToR."""

    name: str
    purpose: str
    text: str

    @property
    def placeholders(self) -> tuple[str, ...]:
        """What is left to fill in, in order of appearance."""
        return tuple(dict.fromkeys(_PLACEHOLDER.findall(self.text)))


def render(plan: Plan, name: VendorName) -> tuple[Rendered, ...]:
    """Return a ToR's files; VendorError when the vendor cannot express the plan."""
    vendor = VENDORS[name]
    found = list(problems(plan, vendor))
    if found:
        lines = "\n".join(f"  {problem}" for problem in found)
        raise VendorError(f"{vendor.title} cannot be configured for this rack:\n{lines}")
    return tuple(_document(plan, name, vendor, document) for document in vendor.documents)


def _document(plan: Plan, name: VendorName, vendor: Vendor, document: Document) -> Rendered:
    template = _environment().get_template(f"{name}/{document.suffix}.j2")
    text = template.render(plan=plan, vlan=vlan(plan, vendor))
    rendered = Rendered(f"{plan.name}.{document.suffix}", document.purpose, text)
    return Rendered(rendered.name, document.purpose, "".join(_notice(rendered, document)) + text)


def _notice(rendered: Rendered, document: Document) -> Iterator[str]:
    """Yield comment lines that list the placeholders."""
    begin, end = document.comment
    if rendered.placeholders:
        yield f"{begin}TO FILL IN, because the rack file's fabric section does not say:{end}\n"
        yield from (f"{begin}  {placeholder}{end}\n" for placeholder in rendered.placeholders)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("routed.torconfig"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - switches read plain text, no HTML
    )
    environment.filters.update(prefix=ip_network, dotted=_dotted)
    environment.tests["known"] = lambda value: not isinstance(value, Placeholder)
    return environment


def _dotted(mac: str) -> str:
    """Return ``0200.0000.0101`` for ``02:00:00:00:01:01``; a placeholder as it is."""
    if isinstance(mac, Placeholder):
        return mac
    digits = mac.replace(":", "")
    return ".".join(digits[at : at + 4] for at in (0, 4, 8))
