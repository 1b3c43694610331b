"""The audit file: which racks there are, and how to look at every plane of them.

One YAML file, all that a network engineer writes. Paths in it are relative to it. Commands are prefixes, a list of
words: no shell reads them, and `{name}` or `{server}` in them stands for whom they are about. This module converts and
checks; it looks at nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from ipam.model import IPAddress
from routed.settings import SettingsError, checked, read

DEFAULT = Path("/etc/routed/audit.yaml")
_PLACE = re.compile(r"\{(\w+)\}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _with_places(*known: str) -> AfterValidator:
    """Check that words ask for nothing but these values."""

    def check(words: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for word in (words,) if isinstance(words, str) else words:
            for place in _PLACE.findall(word):
                if place not in known:
                    raise ValueError(f"{{{place}}} is not known here; {' and '.join(f'{{{one}}}' for one in known)} is")
        return words

    return AfterValidator(check)


Words = Annotated[tuple[str, ...], Field(min_length=1)]


class SessionSettings(_Section):
    """A BGP session to a switch that has this host as a passive neighbour."""

    address: IPAddress
    """The switch's."""
    local: IPAddress
    """This host's; of the same IP version."""

    @model_validator(mode="after")
    def _one_version(self) -> Self:
        if self.address.version != self.local.version:
            raise ValueError("address and local must be of the same IP version")
        return self


class SwitchSettings(_Section):
    """How to look at a switch."""

    source: Literal["frr", "sonic", "bird", "bgp"]
    command: Annotated[Words, _with_places("name")] | None = None
    """What its `vtysh` or `birdc` is run by, ending with that; not for `bgp`."""
    asn: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    """For `bgp`: the switch's AS, which this host takes part in."""
    sessions: tuple[SessionSettings, ...] = Field(default=(), max_length=2)
    """For `bgp`: one, or one per IP version."""
    password_file: Path | None = None
    """For `bgp`: one line, the TCP MD5 secret."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.source == "bgp":
            if self.asn is None or not self.sessions or self.command is not None:
                raise ValueError("source bgp wants asn and sessions, and no command")
            if len({session.address.version for session in self.sessions}) < len(self.sessions):
                raise ValueError("sessions: at most one per IP version")
        elif self.command is None or self.asn is not None or self.sessions or self.password_file is not None:
            raise ValueError(f"source {self.source} wants a command, and nothing else")
        return self


class SwitchesSettings(BaseModel):
    """How to look at all switches: `defaults`, and by name what is different."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, SwitchSettings] = {}

    defaults: SwitchSettings | None = None
    spines: tuple[str, ...] = ()
    """Switches beyond the racks; every ToR that a rack names is a switch already."""

    def of(self, name: str) -> SwitchSettings | None:
        """Return how to look at this switch; None when the file does not say."""
        return self.__pydantic_extra__.get(name, self.defaults)

    @property
    def named(self) -> frozenset[str]:
        """Names of the switches that are different."""
        return frozenset(self.__pydantic_extra__)


class AgentsSettings(_Section):
    """How to ask the agents; by command or by file."""

    command: Annotated[Words, _with_places("server", "rack")] | None = None
    """Ends with ``routed audit export``."""
    file: Annotated[str, _with_places("server", "rack")] | None = None
    """What somebody collected with it."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.command is None) == (self.file is None):
            raise ValueError("name either a command or a file")
        return self


class ApiSettings(_Section):
    """Racks and Addresses of a Kubernetes API server."""

    kubeconfig: Path | None = Path("~/.kube/config")
    """None: this runs in a pod, with a service account."""
    context: str | None = None
    """None: the kubeconfig's current one."""


class PoolsSettings(_Section):
    """When pools are worth a word."""

    low: float = Field(default=0.9, gt=0, le=1)
    """Share of a pool's addresses from which on it runs low."""


class AuditSettings(_Section):
    """A whole audit file."""

    racks: tuple[str, ...] = ()
    """Rack files, or patterns such as ``racks/*.yaml``."""
    kubernetes: ApiSettings | None = None
    holdings: Path | None = None
    """A JSON file of who should have which address."""
    agents: AgentsSettings | None = None
    """None when nobody can be asked."""
    switches: SwitchesSettings = SwitchesSettings()
    timeout_s: float = Field(default=10.0, gt=0)
    """How long one look at one switch, agent or API server may take."""
    parallel: int = Field(default=32, ge=1, le=1024)
    """Looks at the same time."""
    max_age_s: float = Field(default=86400.0, gt=0)
    """How old an agent's export or a switch's dump may be; what an older one shows could not be observed."""
    confirm_after_s: float = Field(default=3.0, ge=0)
    """Time until the second look at what seems wrong; pods that start or end are right by then."""
    pools: PoolsSettings = PoolsSettings()

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _racks_from_somewhere(self) -> Self:
        if bool(self.racks) == (self.kubernetes is not None):
            raise ValueError("say where the racks are described: either racks or kubernetes")
        return self

    def path(self, said: str | Path) -> Path:
        """Return a path of this file as seen from here."""
        return self._folder / Path(said).expanduser()

    def rack_files(self) -> tuple[Path, ...]:
        """Return the rack files; SettingsError when a pattern finds none."""
        found: dict[Path, None] = {}
        for pattern in self.racks:
            path = self.path(pattern)
            matches = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
            if not matches:
                raise SettingsError(f"racks: there is no {path}")
            found.update(dict.fromkeys(matches))
        return tuple(found)


def load(path: Path) -> AuditSettings:
    """Read and validate an audit file; SettingsError says what is wrong with which key."""
    settings = checked(AuditSettings, read(path), str(path))
    settings._folder = path.parent  # noqa: SLF001 - known only here, and no key of the file
    return settings
