"""Requests: every command, version and rule, and what is refused with which code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routed.cni.errors import CniError, Code, Failure, code_for
from routed.cni.protocol import (
    SIZE_LIMIT,
    VERSIONS,
    AttachmentRequest,
    Command,
    GcRequest,
    Request,
    answer,
    is_ifname,
    parse,
)
from routed.cni.result import Interface, Result
from routed.domain.workload import AttachmentId, PodRef

ENVIRONMENT = {
    "CNI_CONTAINERID": "3f4c0d",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=2b6f",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG: dict[str, Any] = {"cniVersion": "1.1.0", "name": "pods", "type": "routed-cni"}
PREVIOUS = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}]}
EXTRA: dict[str, dict[str, Any]] = {"CHECK": {"prevResult": PREVIOUS}, "GC": {"cni.dev/valid-attachments": []}}


def raw(command: str, config: bytes | dict[str, Any] | None = None, **environment: str | None) -> bytes:
    variables = {"CNI_COMMAND": command, **ENVIRONMENT, **environment}
    head = "".join(f"{name}={value}\0" for name, value in variables.items() if value is not None)
    body = (
        config
        if isinstance(config, bytes)
        else json.dumps({**CONFIG, **EXTRA.get(command, {}), **(config or {})}).encode()
    )
    return head.encode(errors="surrogateescape") + b"\0" + body


def code(request: bytes) -> int:
    with pytest.raises(CniError) as caught:
        parse(request)
    return int(code_for(caught.value).code)


def attachment_request(request: bytes) -> AttachmentRequest:
    parsed = parse(request)
    assert isinstance(parsed, AttachmentRequest)
    return parsed


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_a_call_about_an_attachment(command: str) -> None:
    request = attachment_request(raw(command))
    assert request.command == command
    assert request.attachment == AttachmentId("3f4c0d", "eth0")
    assert request.netns == "/run/netns/pod"
    assert request.pod == PodRef("shop", "cart-0", "2b6f")
    assert (request.config.name, request.config.type, request.config.version) == ("pods", "routed-cni", "1.1.0")


def test_status_needs_no_attachment() -> None:
    assert type(parse(raw("STATUS", CNI_CONTAINERID="", CNI_NETNS="", CNI_IFNAME="", CNI_ARGS=""))) is Request


def test_gc_brings_what_is_still_valid() -> None:
    valid = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "a", "ifname": "net1"}]
    request = parse(raw("GC", {"cni.dev/valid-attachments": valid}, CNI_CONTAINERID="", CNI_IFNAME=""))
    assert isinstance(request, GcRequest)
    assert request.valid == {AttachmentId("a", "eth0"), AttachmentId("a", "net1")}


@pytest.mark.parametrize(
    "valid",
    [
        None,
        {},
        "a",
        [{"containerID": "a"}],
        [{"containerID": "../a", "ifname": "eth0"}],
        [{"containerID": "a", "ifname": "/"}],
    ],
)
def test_gc_without_a_sound_list_deletes_nothing(valid: object) -> None:
    assert code(raw("GC", {"cni.dev/valid-attachments": valid})) == Code.INVALID_CONFIG


def test_gc_without_any_list_deletes_nothing() -> None:
    assert code(raw("GC", json.dumps(CONFIG).encode())) == Code.INVALID_CONFIG


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("command", list(Command))
def test_each_version_has_its_commands(command: Command, version: str) -> None:
    since = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}.get(command, "0.3.1")
    request = raw(command, {"cniVersion": version})
    if VERSIONS.index(version) >= VERSIONS.index(since):
        assert parse(request).command is command
        assert parse(request).config.version == version
    else:
        assert code(request) == Code.UNSUPPORTED_VERSION


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "2", "", 1, None, ["1.0.0"]])
def test_other_versions_are_refused(version: object) -> None:
    assert code(raw("ADD", {"cniVersion": version})) == Code.UNSUPPORTED_VERSION


def test_no_version_means_the_oldest_and_is_refused() -> None:
    assert code(raw("ADD", b'{"name": "pods"}')) == Code.UNSUPPORTED_VERSION


@pytest.mark.parametrize("command", ["", "VERSION", "add", "FORGET"])
def test_an_unknown_command_is_named(command: str) -> None:
    with pytest.raises(CniError, match="CNI_COMMAND"):
        parse(raw(command))
    assert code(raw(command)) == Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize(
    "container_id", ["", "..", "../../etc/passwd", "a/b", "-a", "a b", "a\n", "a:eth0", "a" * 129, "ä", None, "\udcff"]
)
def test_a_hostile_container_id_is_refused(command: str, container_id: str | None) -> None:
    assert code(raw(command, CNI_CONTAINERID=container_id)) == Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize("container_id", ["a", "0", "a" * 128, "A-b_c.d"])
def test_a_sound_container_id_is_taken(container_id: str) -> None:
    assert attachment_request(raw("ADD", CNI_CONTAINERID=container_id)).attachment.container_id == container_id


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize("ifname", ["", ".", "..", "a/b", "a:b", "a b", "eth%d", "eth0\n", "x" * 16, "é", None])
def test_a_name_that_the_kernel_would_not_take_is_refused(command: str, ifname: str | None) -> None:
    assert code(raw(command, CNI_IFNAME=ifname)) == Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize("ifname", ["a", "...", "eth0", "net1@x", "x" * 15])
def test_a_name_that_the_kernel_takes_is_taken(ifname: str) -> None:
    assert is_ifname(ifname)
    assert attachment_request(raw("ADD", CNI_IFNAME=ifname)).attachment.ifname == ifname


@pytest.mark.parametrize("netns", ["", "pod", "./pod", "/run/net ns", "/" + "x" * 4096, None])
def test_a_pod_needs_the_path_of_its_namespace(netns: str | None) -> None:
    assert code(raw("ADD", CNI_NETNS=netns)) == Code.INVALID_ENVIRONMENT
    assert code(raw("CHECK", CNI_NETNS=netns)) == Code.INVALID_ENVIRONMENT
    assert attachment_request(raw("DEL", CNI_NETNS=netns)).netns == ""


ARGUMENTS = {
    "IgnoreUnknown": "true",
    "K8S_POD_NAMESPACE": "shop",
    "K8S_POD_NAME": "cart-0",
    "K8S_POD_UID": "2b6f",
    "K8S_POD_INFRA_CONTAINER_ID": "3f4c0d",
    "FOO": "BAR",
}


@given(st.permutations(list(ARGUMENTS.items())))
def test_arguments_come_in_any_order(pairs: list[tuple[str, str]]) -> None:
    arguments = ";".join(f"{key}={value}" for key, value in pairs)
    assert attachment_request(raw("ADD", CNI_ARGS=arguments)).pod == PodRef("shop", "cart-0", "2b6f")


@given(
    st.permutations([(key, value) for key, value in ARGUMENTS.items() if key != "IgnoreUnknown"]),
    st.sampled_from(["", "0", "false"]),
)
def test_an_unknown_argument_is_refused_unless_it_is_to_be_ignored(pairs: list[tuple[str, str]], ignore: str) -> None:
    arguments = ";".join(f"{key}={value}" for key, value in [*pairs, ("IgnoreUnknown", ignore)])
    assert code(raw("ADD", CNI_ARGS=arguments)) == Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize(
    "arguments", ["FOO", "=BAR", "K8S_POD_NAME=a b", "K8S_POD_NAME=../x", f"K8S_POD_UID={'a' * 254}"]
)
def test_malformed_arguments_are_refused_but_never_keep_a_pod_from_going(arguments: str) -> None:
    assert code(raw("ADD", CNI_ARGS=f"IgnoreUnknown=1;{arguments}")) == Code.INVALID_ENVIRONMENT
    assert attachment_request(raw("DEL", CNI_ARGS=f"IgnoreUnknown=1;{arguments}")).pod == PodRef()


@pytest.mark.parametrize("arguments", ["", None, ";", "K8S_POD_NAME=;"])
def test_a_runtime_that_knows_no_pod_says_nothing(arguments: str | None) -> None:
    assert attachment_request(raw("ADD", CNI_ARGS=arguments)).pod == PodRef()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert code(raw("ADD", body)) == Code.DECODE


@pytest.mark.parametrize(
    "config",
    [
        {"name": ""},
        {"name": None},
        {"name": "a b"},
        {"name": "-a"},
        {"name": "pods\n"},
        {"name": 5},
        {"type": 5},
        {"prevResult": {"ips": [{"address": "x"}]}},
        {"runtimeConfig": []},
        {"dns": []},
    ],
)
def test_a_configuration_that_does_not_hold_is_refused_and_the_key_named(config: dict[str, Any]) -> None:
    with pytest.raises(CniError, match=next(iter(config))):
        parse(raw("ADD", config))
    assert code(raw("ADD", config)) == Code.INVALID_CONFIG


@pytest.mark.parametrize(("key", "value"), [("ipam", {"type": "host-local"}), ("ipMasq", True)])
def test_what_this_network_never_does_is_refused_with_key_and_value(key: str, value: object) -> None:
    with pytest.raises(CniError) as caught:
        parse(raw("ADD", {key: value}))
    failure = code_for(caught.value)
    assert failure.code is Code.UNSUPPORTED_FIELD
    assert f"{key}: {json.dumps(value)}" in failure.msg


def test_host_ports_that_nobody_else_maps_fail_the_pod_alone() -> None:
    config = {"runtimeConfig": {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]}}
    with pytest.raises(CniError, match=r'"hostPort": 18080.*no CNI plugin `portmap`') as caught:
        parse(raw("ADD", config))
    assert code_for(caught.value).code is Code.UNSUPPORTED_FIELD
    attachment_request(raw("CHECK", {**config, "prevResult": PREVIOUS}))
    attachment_request(raw("DEL", config))


@pytest.mark.parametrize("none", [None, []])
def test_a_pod_without_host_ports_is_not_refused(none: object) -> None:
    attachment_request(raw("ADD", {"runtimeConfig": {"portMappings": none}}))


def test_keys_of_others_are_ignored_and_those_of_the_protocol_kept() -> None:
    others = {
        "ipam": {},
        "ipMasq": False,
        "capabilities": {"mac": True},
        "args": {"cni": {}},
        "cni.dev/x": 1,
        "log": "x",
    }
    ours = {"runtimeConfig": {"mac": "0a:58:00:00:00:01"}, "dns": {"domain": "local"}, "prevResult": PREVIOUS}
    config = parse(raw("ADD", {**others, **ours})).config
    assert config.runtime == {"mac": "0a:58:00:00:00:01"}
    assert config.dns.domain == "local"
    assert config.previous == Result(interfaces=(Interface(name="eth0", sandbox="/run/netns/pod"),))


VF, OTHER_VF = "0000:03:00.2", "10000:81:1f.7"


@pytest.mark.parametrize(
    "given",
    [{"deviceID": VF}, {"runtimeConfig": {"deviceID": VF}}, {"deviceID": VF, "runtimeConfig": {"deviceID": VF}}],
)
def test_a_vf_is_named_in_either_place(given: dict[str, Any]) -> None:
    for command in ("ADD", "CHECK", "DEL"):
        assert attachment_request(raw(command, given)).config.device == VF


@pytest.mark.parametrize("given", [{}, {"deviceID": ""}, {"deviceID": None}, {"runtimeConfig": {"deviceID": None}}])
def test_most_pods_are_given_no_vf(given: dict[str, Any]) -> None:
    assert attachment_request(raw("ADD", given)).config.device is None


@pytest.mark.parametrize(
    "given",
    [
        {"deviceID": VF, "runtimeConfig": {"deviceID": OTHER_VF}},
        {"deviceID": "mlx5_core.sf.4"},
        {"deviceID": "../../0000:03:00.2"},
        {"deviceID": "0000:03:00.8"},
        {"runtimeConfig": {"deviceID": [VF]}},
        {"runtimeConfig": {"deviceID": 7}},
    ],
)
def test_what_is_no_vf_is_refused_but_never_keeps_a_pod_from_going(given: dict[str, Any]) -> None:
    assert code(raw("ADD", given)) == Code.INVALID_CONFIG
    assert attachment_request(raw("DEL", given)).config.device is None


@pytest.mark.parametrize(("given", "rdma"), [({}, False), ({"rdma": False}, False), ({"rdma": True}, True)])
def test_a_network_may_want_rdma(given: dict[str, Any], rdma: bool) -> None:
    assert attachment_request(raw("ADD", given)).config.rdma is rdma


def test_check_needs_the_result_to_compare_with() -> None:
    assert code(raw("CHECK", json.dumps(CONFIG).encode())) == Code.INVALID_CONFIG


@pytest.mark.parametrize("body", [b"", b"{", json.dumps({**CONFIG, "cniVersion": "9.9.9", "prevResult": 5}).encode()])
def test_no_configuration_keeps_a_pod_from_going(body: bytes) -> None:
    request = attachment_request(raw("DEL", body))
    assert request.attachment == AttachmentId("3f4c0d", "eth0")
    assert request.config.previous is None


@pytest.mark.parametrize(
    "request_bytes",
    [b"", b"\0", b"CNI_COMMAND=ADD", b"CNI_COMMAND=ADD\0", b"CNI_COMMAND\0\0{}", b"PATH=/bin\0\0{}", b"{}\0\0{}"],
)
def test_what_is_no_request_is_refused(request_bytes: bytes) -> None:
    assert code(request_bytes) == Code.DECODE


def test_a_request_of_the_largest_size_is_taken_and_one_byte_more_is_not() -> None:
    padding = SIZE_LIMIT - len(raw("ADD", {"pad": ""}))
    assert parse(raw("ADD", {"pad": "x" * padding})).command is Command.ADD
    assert code(raw("ADD", {"pad": "x" * (padding + 1)})) == Code.DECODE


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_in_any_other_way(junk: bytes) -> None:
    for request in (junk, b"CNI_COMMAND=ADD\0\0" + junk, raw("ADD", junk), b"CNI_COMMAND=" + junk + b"\0\0{}"):
        with pytest.raises(CniError):
            parse(request)


def test_the_answer_counts_its_body() -> None:
    head, _, body = answer("1.0.0", Result(interfaces=(Interface(name="eth0"),))).partition(b"\n")
    assert head == b"0 %d" % len(body)
    assert json.loads(body) == {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]}


def test_the_answer_to_all_but_add_is_empty() -> None:
    assert answer("1.1.0", None) == b"0 0\n"


@pytest.mark.parametrize(("details", "expected"), [("", {}), ("why", {"details": "why"})])
def test_a_failure_is_an_error_object(details: str, expected: dict[str, str]) -> None:
    head, _, body = answer("0.4.0", Failure(Code.TRY_AGAIN_LATER, "starting", details)).partition(b"\n")
    assert head == b"1 %d" % len(body)
    assert json.loads(body) == {"cniVersion": "0.4.0", "code": 11, "msg": "starting", **expected}
