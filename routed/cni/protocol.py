"""CNI requests: the bytes that the shim sends, turned into one validated value, and the answer turned into bytes.

Owns the wire form (its other end is deploy/cni/shim.c), the rules for every variable and key, and the versions; never
does I/O. CNI 1.1.0 "CNI operations" and "Plugin configuration objects"; 1.0.0, 0.4.0 and 0.3.1 differ in results and in
which commands there are. VERSION never comes here: the shim answers it.

Keys of the configuration that are not known here are ignored. The specification allows to refuse them, but runtimes and
meta plugins add keys of their own, and a pod must not fail for one. Refused are the well-known keys that ask for what
this network never does (`ipam`, `ipMasq`), and host ports, which another plugin has to map. DEL needs only the
attachment: whatever else is broken, a pod can go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from routed.cni.errors import (
    CniError,
    DecodeError,
    Failure,
    InvalidConfig,
    InvalidEnvironment,
    UnsupportedField,
    UnsupportedVersion,
)
from routed.cni.result import Dns, Record, Result, encode, explain
from routed.domain.workload import AttachmentId, PodRef

SIZE_LIMIT = 1 << 20
"""Bytes of a whole request; the shim refuses more, too."""
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_IFNAME = re.compile(r"(?!\.{1,2}$)[!-~]{1,15}")
_POD_FIELD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
_NETNS = re.compile(r"/[!-~]{1,4095}")
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
"""As the kernel writes it; ``0000:03:00.2``."""
_POD_ARGS = {"K8S_POD_NAMESPACE": "namespace", "K8S_POD_NAME": "name", "K8S_POD_UID": "uid"}
_OTHER_ARGS = {"IgnoreUnknown", "K8S_POD_INFRA_CONTAINER_ID"}


class Command(StrEnum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"


_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}


class Config(Record):
    """The plugin configuration object, as the runtime derived it."""

    name: str = Field(max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    """The network's name."""
    version: str = Field(validation_alias="cniVersion")
    type: str = ""
    previous: Result | None = Field(default=None, validation_alias="prevResult")
    """What the chain made so far (ADD), or what ADD answered with (CHECK, DEL)."""
    dns: Dns = Dns()
    rdma: bool = False
    """Pods that have a VF get its RDMA device, too."""
    runtime: dict[str, Any] = Field(default={}, validation_alias="runtimeConfig")
    """Values of the capabilities that the configuration declares, as the runtime gave them."""
    device_id: str = Field(default="", validation_alias="deviceID")
    """What meta plugins put here, in `runtimeConfig`, or in both; see `device`."""

    @model_validator(mode="after")
    def _one_device(self) -> Self:
        given = [self.device_id, self.runtime.get("deviceID", "")]
        named = [one for one in given if one]
        for one in named:
            if not isinstance(one, str) or _PCI_ADDRESS.fullmatch(one) is None:
                raise ValueError(f"deviceID: {one!r} is no PCI address, such as 0000:03:00.2: only VFs can be had")
            if one != named[0]:
                raise ValueError(f"deviceID: {named[0]} and {one} cannot both be the pod's interface")
        return self

    @property
    def device(self) -> str | None:
        """PCI address of the VF that the pod was given; None for none."""
        return self.device_id or self.runtime.get("deviceID") or None


class _Valid(Record):
    container_id: str = Field(validation_alias="containerID", pattern=f"^{_CONTAINER_ID.pattern}$")
    ifname: str

    @field_validator("ifname")
    @classmethod
    def _named(cls, value: str) -> str:
        if not is_ifname(value):
            raise ValueError("is no name of an interface")
        return value


class _Garbage(Record):
    valid: tuple[_Valid, ...] = Field(validation_alias="cni.dev/valid-attachments")


_NO_CONFIG = Config(name="unknown", version=VERSIONS[-1])


@dataclass(frozen=True, slots=True)
class Request:
    """A call; STATUS has no more than this."""

    command: Command
    config: Config


@dataclass(frozen=True, slots=True)
class AttachmentRequest(Request):
    """ADD, DEL or CHECK."""

    attachment: AttachmentId
    netns: str
    """Absolute path, not yet looked at; empty where DEL came without."""
    pod: PodRef


@dataclass(frozen=True, slots=True)
class GcRequest(Request):
    """GC."""

    valid: frozenset[AttachmentId]
    """The attachments of this network that the runtime still knows; all others are stale."""


def parse(raw: bytes) -> Request:
    """Return the request that the shim's bytes stand for; a CniError names what is wrong with it."""
    environment, body = _split(raw)
    try:
        command = Command(environment.get("CNI_COMMAND", ""))
    except ValueError as error:
        raise InvalidEnvironment(f"CNI_COMMAND: {environment.get('CNI_COMMAND', '')!r} is no command") from error
    if command is Command.DEL:
        return _parse_del(environment, body)
    config = _read(body, command)
    if command is Command.STATUS:
        return Request(command, config)
    if command is Command.GC:
        return GcRequest(command, config, _valid(_document(body)))
    if command is Command.CHECK and config.previous is None:
        raise InvalidConfig("prevResult: CHECK needs it")
    if command is Command.ADD:
        _refuse_host_ports(config)
    return AttachmentRequest(command, config, _attachment(environment), _netns(environment), _pod(environment))


def is_ifname(name: str) -> bool:
    """Tell whether the kernel takes this as the name of one interface, as it stands (``%`` makes it a template)."""
    return bool(_IFNAME.fullmatch(name)) and not set(name) & set("/:%")


def answer(version: str, outcome: Result | Failure | None) -> bytes:
    """Return the bytes that the shim expects: exit status, length of the body, body."""
    if outcome is None:
        return b"0 0\n"
    if isinstance(outcome, Failure):
        document = {"cniVersion": version, **outcome._asdict()}
        if not outcome.details:
            del document["details"]
    else:
        document = encode(outcome, version)
    body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    return b"%d %d\n%s" % (isinstance(outcome, Failure), len(body), body)


def _split(raw: bytes) -> tuple[dict[str, str], bytes]:
    """Return the variables and standard input."""
    if len(raw) > SIZE_LIMIT:
        raise DecodeError(f"the request is longer than {SIZE_LIMIT} bytes")
    head, end, body = raw.partition(b"\0\0")
    if not end:
        raise DecodeError("the request ends before its configuration")
    environment = {}
    for assignment in head.split(b"\0"):
        name, equals, value = assignment.partition(b"=")
        if not (equals and name.startswith(b"CNI_")):
            raise DecodeError("the request does not start with CNI_* variables")
        if not (value.isascii() and name.isascii()):
            raise InvalidEnvironment(f"{name.decode(errors='backslashreplace')}: not ASCII")
        environment[name.decode()] = value.decode()
    return environment, body


def _document(body: bytes) -> Mapping[str, Any]:
    """Return the configuration as JSON has it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError("the configuration is not JSON") from error
    if not isinstance(document, dict):
        raise DecodeError("the configuration is no JSON object")
    return document


def _config(document: Mapping[str, Any], command: Command) -> Config:
    """Return the validated configuration; the version is looked at first, since it says how to read the rest."""
    version = document.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        raise UnsupportedVersion(f"cniVersion {version!r} is not supported; supported are {', '.join(VERSIONS)}")
    since = _SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise UnsupportedVersion(f"{command} needs cniVersion {since}, the configuration has {version}")
    for key, never in (("ipam", "addresses come from the rack's pools"), ("ipMasq", "nothing is translated")):
        if document.get(key):
            raise UnsupportedField(f"{key}: {json.dumps(document[key])} is not supported: {never}")
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise InvalidConfig(explain(error)) from None


def _refuse_host_ports(config: Config) -> None:
    """Fail a pod that wants some: we are told of them only where no `portmap` follows (`routed.cni.install`)."""
    wanted = config.runtime.get("portMappings")
    if wanted:
        raise UnsupportedField(
            f"portMappings: {json.dumps(wanted)} is not supported: this server has no CNI plugin `portmap` of release "
            "1.2.0 or later for host ports; install it, then restart the agent"
        )


@lru_cache(maxsize=16)
def _read(body: bytes, command: Command) -> Config:
    """Return the validated configuration in standard input. Kept: ADD brings the same text for every pod."""
    return _config(_document(body), command)


def _valid(document: Mapping[str, Any]) -> frozenset[AttachmentId]:
    """Return what GC must keep; a list that is not there is not an empty list."""
    try:
        garbage = _Garbage.model_validate(document)
    except ValidationError as error:
        raise InvalidConfig(explain(error)) from None
    return frozenset(AttachmentId(one.container_id, one.ifname) for one in garbage.valid)


def _parse_del(environment: Mapping[str, str], body: bytes) -> AttachmentRequest:
    """Return a DEL, with empty values for everything but the attachment where that cannot be read."""
    attachment = _attachment(environment)
    try:
        config = _config(_document(body), Command.DEL)
    except CniError:
        config = _NO_CONFIG
    try:
        netns = _netns(environment)
    except InvalidEnvironment:
        netns = ""
    try:
        pod = _pod(environment)
    except InvalidEnvironment:
        pod = PodRef()
    return AttachmentRequest(Command.DEL, config, attachment, netns, pod)


def _attachment(environment: Mapping[str, str]) -> AttachmentId:
    container_id, ifname = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    if not _CONTAINER_ID.fullmatch(container_id):
        raise InvalidEnvironment(f"CNI_CONTAINERID: {container_id[:140]!r} is no container id")
    if not is_ifname(ifname):
        raise InvalidEnvironment(f"CNI_IFNAME: {ifname[:140]!r} is no name of an interface")
    return AttachmentId(container_id, ifname)


def _netns(environment: Mapping[str, str]) -> str:
    netns = environment.get("CNI_NETNS", "")
    if not _NETNS.fullmatch(netns):
        raise InvalidEnvironment(f"CNI_NETNS: {netns[:140]!r} is no absolute path")
    return netns


def _pod(environment: Mapping[str, str]) -> PodRef:
    """Return the pod that CNI_ARGS names, in any order; unknown keys are refused unless IgnoreUnknown is among them."""
    pairs = [pair.partition("=") for pair in environment.get("CNI_ARGS", "").split(";") if pair]
    if malformed := [key for key, equals, _ in pairs if not (key and equals)]:
        raise InvalidEnvironment(f"CNI_ARGS: {malformed[0][:140]!r} is no pair KEY=VALUE")
    arguments = {key: value for key, _, value in pairs}
    unknown = arguments.keys() - _POD_ARGS.keys() - _OTHER_ARGS
    if unknown and arguments.get("IgnoreUnknown", "").lower() not in {"1", "true"}:
        raise InvalidEnvironment(f"CNI_ARGS: {min(unknown)[:140]!r} is unknown, and IgnoreUnknown is not set")
    fields = {field: arguments[key] for key, field in _POD_ARGS.items() if arguments.get(key)}
    for key, field in _POD_ARGS.items():
        if field in fields and not _POD_FIELD.fullmatch(fields[field]):
            raise InvalidEnvironment(f"CNI_ARGS: {key}={fields[field][:140]!r} is malformed")
    return PodRef(**fields)
