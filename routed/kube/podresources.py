"""Which devices the kubelet has given to a pod, asked over its PodResources API.

A VF that a device plugin offers is allocated before the pod's network is set up; where no meta plugin hands its address
on, the kubelet alone can tell. Asks and decides nothing; the only file that imports `grpc`, and not before somebody has
a kubelet to ask: only servers that hand out VFs do.

API: `v1.PodResourcesLister` of the kubelet (1.20 and later; `Get` by default since 1.34), over a Unix socket, a hundred
calls a second and ten at once. Only fields that are needed are declared; protobuf skips all others.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routed.domain.workload import PodRef
from routed.kube.errors import KubeError, Malformed, NoAccess

if TYPE_CHECKING:
    from grpc.aio import Channel, UnaryUnaryMultiCallable

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_SERVICE = "v1.PodResourcesLister"
_PATIENCE_S = 5.0
_MOST_BYTES = 16 << 20
"""Of a list of pods; what the kubelet's own client takes."""
_PAUSE_S = 0.05
"""Before the kubelet is asked again that was asked too often."""
_RATE_LIMIT = "rate limit"
"""What the kubelet says then (Kubernetes, pkg/kubelet/apis/grpc/ratelimit.go)."""
_FIELDS = {
    "ListRequest": (),
    "ListResponse": ("*pod_resources:Pod",),
    "GetRequest": ("pod_name", "pod_namespace"),
    "GetResponse": ("pod_resources:Pod",),
    "Pod": ("name", "namespace", "*containers:Container"),
    "Container": ("name", "*devices:Devices"),
    "Devices": ("resource_name", "*device_ids"),
}
"""Messages and their fields, numbered from 1 in this order: strings, or messages of the type behind the colon; a star
says that there are many. Messages have no names on the wire, so these are short."""


class KubeletError(KubeError):
    """The kubelet did not say what a pod has: it is away, slow, too busy, or does not know the pod (yet)."""


class Kubelet:
    """This server's kubelet."""

    def __init__(self, socket: Path, resources: Iterable[str], patience_s: float = _PATIENCE_S) -> None:
        """``resources`` are patterns as in a shell (``mellanox.com/*``) for the names of resources that are VFs.

        Nobody is asked yet. Raises NoAccess when the library is not there.
        """
        self._socket, self._resources, self._patience_s = socket, tuple(resources), patience_s
        try:
            import grpc.aio  # noqa: F401, PLC0415 - takes a fifth of a second, see above
        except ImportError as error:
            raise NoAccess("the Python package grpcio is not installed; install routed[kubernetes]") from error

    async def devices(self, pod: PodRef) -> tuple[str, ...]:
        """Return the PCI addresses of the VFs that a pod's containers have, in order; none when it asked for none.

        Raises KubeletError when that is not known in time, Malformed when a device is something else than a VF.
        """
        import grpc  # noqa: PLC0415 - see above

        target = f"unix:{self._socket}"
        options = (("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.default_authority", "localhost"))
        try:
            async with asyncio.timeout(self._patience_s), grpc.aio.insecure_channel(target, options) as channel:
                containers = await _containers(channel, pod)
        except TimeoutError:
            raise KubeletError(f"the kubelet does not say which devices {pod} has: no answer in time") from None
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name.lower()}: {error.details()}"
            raise KubeletError(f"the kubelet does not say which devices {pod} has: {why}") from error
        return network_devices(containers, self._resources)


def network_devices(containers: Iterable[Any], resources: Iterable[str]) -> tuple[str, ...]:
    """Return the devices of those resources, each once, sorted; Malformed for one that is no PCI device."""
    patterns = tuple(resources)
    found: set[tuple[str, str]] = set()
    for container in containers:
        for devices in container.devices:
            if any(fnmatchcase(devices.resource_name, pattern) for pattern in patterns):
                found.update((identity, devices.resource_name) for identity in devices.device_ids)
    for identity, resource in sorted(found):
        if not _PCI_ADDRESS.fullmatch(identity):
            raise Malformed(
                f"{resource} gave the pod {identity!r}, which is no PCI address: leave it out of sriov.resources"
            )
    return tuple(sorted({identity for identity, _ in found}))


async def _containers(channel: Channel, pod: PodRef) -> Iterable[Any]:
    """Return a pod's containers: by `Get` where the kubelet has that and knows the pod, else by `List`."""
    import grpc  # noqa: PLC0415 - see above

    kinds = messages()
    asked = kinds["GetRequest"](pod_name=pod.name, pod_namespace=pod.namespace)
    try:
        answer = await _ask(channel, "Get", asked, kinds["GetResponse"])
        known = [answer.pod_resources]
    except grpc.aio.AioRpcError as error:
        if error.code() not in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN}:
            raise
        answer = await _ask(channel, "List", kinds["ListRequest"](), kinds["ListResponse"])
        known = list(answer.pod_resources)
    named = [one.containers for one in known if (one.namespace, one.name) == (pod.namespace, pod.name)]
    if len(named) != 1:  # two: the one before it, of the same name, has not ended
        raise KubeletError(f"the kubelet knows {len(named) or 'no'} pods that are called {pod}")
    (containers,) = named
    return containers  # type: ignore[no-any-return]  # a generated class has no types


async def _ask(channel: Channel, method: str, request: Any, kind: Any) -> Any:
    """Return what the kubelet answers, once it has time for us."""
    import grpc  # noqa: PLC0415 - see above

    call: UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
        f"/{_SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=kind.FromString,
    )
    while True:
        try:
            return await call(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or _RATE_LIMIT not in (error.details() or ""):
                raise  # gRPC says the same of an answer that is too long
        await asyncio.sleep(_PAUSE_S)


@cache
def messages() -> dict[str, Any]:
    """Return the classes of the messages by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415 - see above

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="kubelet", syntax="proto3")
    for message, fields in _FIELDS.items():
        made = file.message_type.add(name=message)
        for number, field in enumerate(fields, 1):
            name, _, kind = field.removeprefix("*").partition(":")
            made.field.add(
                name=name,
                number=number,
                label=field_type.LABEL_REPEATED if field.startswith("*") else field_type.LABEL_OPTIONAL,
                type=field_type.TYPE_MESSAGE if kind else field_type.TYPE_STRING,
                type_name=f".kubelet.{kind}" if kind else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kubelet.{name}")) for name in _FIELDS}
