"""The audit file: which racks there are, and how to look at every plane of them.

One YAML file, all that a network engineer writes. Paths in it are relative to it. Commands are prefixes, a list of
words: no shell reads them, and `{name}` or `{server}` in them stands for whom they are about. This module converts and
checks; it looks at nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from ipam.model import IPAddress
from routed.kube.kubeconfig import users
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

    source: Literal["frr", "sonic", "bird", "bgp", "mrt", "napalm"]
    command: Annotated[Words, _with_places("name")] | None = None
    """For `frr`, `sonic` and `bird`: what its `vtysh` or `birdc` is run by, ending with that."""
    asn: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    """For `bgp`: the switch's AS, which this host takes part in."""
    sessions: tuple[SessionSettings, ...] = Field(default=(), max_length=2)
    """For `bgp`: one, or one per IP version."""
    password_file: Path | None = None
    """For `bgp`: one line, the TCP MD5 secret; for `napalm`: one line, the password."""
    file: Annotated[str, _with_places("name")] | None = None
    """For `mrt`: the dump."""
    peer: IPAddress | None = None
    """For `mrt`, in a collector's dump: the switch's address."""
    driver: Literal["eos", "nxos", "nxos_ssh", "junos"] | None = None
    """For `napalm`."""
    host: Annotated[str, _with_places("name")] = "{name}"
    """For `napalm`: name or address."""
    user: str | None = None
    """For `napalm`."""
    password_variable: str | None = None
    """For `napalm`: the environment variable that has the password, where no file does."""
    options: Mapping[str, str | int | bool] = Field(default_factory=dict)
    """For `napalm`: its driver's optional arguments, but no secrets."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        wants, takes = _KEYS[self.source]
        defaults = {key: one.get_default(call_default_factory=True) for key, one in type(self).model_fields.items()}
        given = {key for key, default in defaults.items() if getattr(self, key) != default} - {"source"}
        if lacking := wants - given:
            raise ValueError(f"source {self.source} wants {' and '.join(sorted(lacking))}")
        if odd := given - wants - takes:
            raise ValueError(f"source {self.source} has no {' and no '.join(sorted(odd))}")
        versions = [session.address.version for session in self.sessions]
        if len(versions) != len(set(versions)):
            raise ValueError("sessions: one per IP version")
        if secret := next((key for key in self.options if "pass" in key or "secret" in key), None):
            raise ValueError(f"options.{secret}: secrets stand in no audit file; see password_file")
        return self


_COMMAND: tuple[frozenset[str], frozenset[str]] = (frozenset({"command"}), frozenset())
_KEYS = {
    "frr": _COMMAND,
    "sonic": _COMMAND,
    "bird": _COMMAND,
    "bgp": (frozenset({"asn", "sessions"}), frozenset({"password_file"})),
    "mrt": (frozenset({"file"}), frozenset({"peer"})),
    "napalm": (
        frozenset({"driver", "user"}),
        frozenset({"host", "password_file", "password_variable", "options"}),
    ),
}
"""By source: the keys that it wants, and those that it takes besides."""


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

    kubeconfig: Path | None = Field(default_factory=users)
    """The user's own unless it is named; None: this runs in a pod, with a service account."""
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
    partial: bool = False
    """`holdings` names some of the pods only: an address that it does not name may have one."""
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

    @model_validator(mode="after")
    def _partial_holdings(self) -> Self:
        if self.partial and self.holdings is None:
            raise ValueError("partial is about holdings, and there are none")
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
