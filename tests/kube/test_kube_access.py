"""What an agent may and may not do, each rule with its negative control: without the rule, the same request passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kube.client import Answer, Client
from tests.kube.control_plane import ISSUER, ControlPlane
from tests.kube.installed import (
    ACCOUNT,
    ADDRESSES,
    NAMESPACE,
    NODES,
    RACKS,
    add_node,
    address,
    agent_of,
    eventually,
    manifests,
    rack,
)

_NUMBERS = itertools.count(1)
_BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
_OWN, _RECLAIM = "routed-own-addresses", "routed-reclaim"
_ASK = "?dryRun=All"
"""Everything but the change itself: the same request can be made with and without a rule."""


@pytest.fixture
def agent(cluster: ControlPlane) -> Client:
    return agent_of(cluster, "s11")


def _leased(cluster: ControlPlane, node: str, node_uid: str = "uid") -> dict[str, Any]:
    """Return a lease of some server, made by somebody who may do everything."""
    text = f"10.8.{next(_NUMBERS)}.1"
    return cluster.admin.post(ADDRESSES, address(text, node=node, node_uid=node_uid)).granted()


def _path(lease: dict[str, Any]) -> str:
    return f"{ADDRESSES}/{lease['metadata']['name']}"


def _release(user: Client, lease: dict[str, Any]) -> Answer:
    """Delete as an agent does it, without effect."""
    metadata = lease["metadata"]
    return user.delete(_path(lease), dry_run=True, uid=metadata["uid"], resourceVersion=metadata["resourceVersion"])


@contextmanager
def _without(cluster: ControlPlane, policy: str) -> Iterator[None]:
    """Unbind a policy; it is bound again, and in force, afterwards."""
    (binding,) = (
        manifest
        for manifest in manifests("access")
        if manifest["kind"].endswith("Binding") and manifest["metadata"]["name"] == policy
    )
    cluster.admin.delete(f"{_BINDINGS}/{policy}").granted()
    try:
        yield
    finally:
        cluster.admin.apply(binding).granted()


def _refused_by(policy: str, cluster: ControlPlane, ask: Callable[[], Answer]) -> str:
    """Return why a request is refused, having seen that it is granted without the policy."""
    mark = f"ValidatingAdmissionPolicy '{policy}'"
    refused = eventually(ask, lambda answer: mark in answer.message)  # it may have been bound again just now
    with _without(cluster, policy):
        eventually(ask, lambda answer: answer.ok)
    eventually(ask, lambda answer: mark in answer.message)
    return refused.message


def test_an_agent_lives_through_the_life_of_a_lease(agent: Client) -> None:
    claimed = agent.post(ADDRESSES, address("10.8.0.1", node="s11")).granted()
    assert agent.post(ADDRESSES, address("10.8.0.1", node="s11")).body["reason"] == "AlreadyExists"
    agent.patch(f"{_path(claimed)}/status", {"status": {"pod": {"namespace": "shop", "name": "web-0"}}}).granted()
    change = {"metadata": {"annotations": {"routed.dev/confirmed": "1"}}, "spec": {"nodeUID": "anew"}}
    confirmed = agent.patch(_path(claimed), change).granted()
    assert agent.get(f"{ADDRESSES}?labelSelector=routed.dev/rack=r1").ok
    gone = agent.delete(
        _path(claimed), uid=confirmed["metadata"]["uid"], resourceVersion=confirmed["metadata"]["resourceVersion"]
    )
    assert gone.ok, gone.message


def test_a_server_claims_for_itself_only(cluster: ControlPlane, agent: Client) -> None:
    foreign = address("10.8.0.2", node="s12")
    said = _refused_by(_OWN, cluster, lambda: agent.post(ADDRESSES + _ASK, foreign))
    assert "spec.node must be s11" in said


def test_a_lease_without_its_rack_s_label_is_refused(cluster: ControlPlane, agent: Client) -> None:
    hidden = address("10.8.0.3", node="s11")
    hidden["metadata"]["labels"]["routed.dev/rack"] = "r2"
    said = _refused_by(_OWN, cluster, lambda: agent.post(ADDRESSES + _ASK, hidden))
    assert "no server of the rack sees the lease" in said
    del hidden["metadata"]["labels"]
    assert "no server of the rack sees the lease" in agent.post(ADDRESSES + _ASK, hidden).message


@pytest.mark.parametrize(
    ("subresource", "change"),
    [
        ("", {"metadata": {"annotations": {"routed.dev/confirmed": "1"}}}),
        ("/status", {"status": {"pod": {"namespace": "shop", "name": "web-0"}}}),
    ],
)
def test_a_server_writes_its_own_leases_only(
    cluster: ControlPlane, agent: Client, subresource: str, change: dict[str, Any]
) -> None:
    path = _path(_leased(cluster, "s12")) + subresource + _ASK
    said = _refused_by(_OWN, cluster, lambda: agent.patch(path, change))
    assert "this lease is not yours: it belongs to s12" in said


def test_a_delete_names_what_was_read(cluster: ControlPlane, agent: Client) -> None:
    lease = _leased(cluster, "s11")
    said = _refused_by(_OWN, cluster, lambda: agent.delete(_path(lease), dry_run=True))
    assert "name the uid and the resourceVersion" in said
    assert "name the uid" in agent.delete(_path(lease), dry_run=True, uid=lease["metadata"]["uid"]).message
    assert _release(agent, lease).ok


def test_the_lease_of_a_server_that_is_there_stays(cluster: ControlPlane, agent: Client) -> None:
    uid = add_node(cluster, "s12")["metadata"]["uid"]
    lease = _leased(cluster, "s12", uid)
    said = _refused_by(_RECLAIM, cluster, lambda: _release(agent, lease))
    assert "this lease belongs to s12, whose Node still exists" in said


def test_the_lease_of_a_server_that_is_gone_can_be_reclaimed(cluster: ControlPlane, agent: Client) -> None:
    uid = add_node(cluster, "s19")["metadata"]["uid"]
    lease = _leased(cluster, "s19", uid)
    eventually(lambda: _release(agent, lease), lambda answer: "whose Node still exists" in answer.message)
    cluster.admin.delete(f"{NODES}/s19").granted()
    eventually(lambda: _release(agent, lease), lambda answer: answer.ok)


def test_the_lease_of_a_server_that_was_replaced_can_be_reclaimed(cluster: ControlPlane, agent: Client) -> None:
    add_node(cluster, "s18")
    lease = _leased(cluster, "s18", node_uid="of the Node before")
    eventually(lambda: _release(agent, lease), lambda answer: answer.ok)


def test_a_token_that_is_bound_to_no_node_touches_nothing(cluster: ControlPlane, agent: Client) -> None:
    account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [ISSUER]}}
    loose = cluster.client_with(cluster.admin.post(account, body).granted()["status"]["token"])
    lease = _leased(cluster, "s11")
    said = _refused_by(_OWN, cluster, lambda: loose.post(ADDRESSES + _ASK, address("10.8.0.4", node="s11")))
    assert "this token is not bound to a pod on a node" in said
    assert "not bound to a pod" in _release(loose, lease).message
    assert _release(agent, lease).ok


def test_people_with_rights_are_not_bound_by_an_agent_s_rules(cluster: ControlPlane) -> None:
    lease = _leased(cluster, "s12", add_node(cluster, "s12")["metadata"]["uid"])
    cluster.admin.delete(_path(lease)).granted()


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("get", "/api/v1/secrets"),
        ("get", f"/api/v1/namespaces/{NAMESPACE}/secrets/routed-bgp"),
        ("patch", f"{NODES}/s11"),
        ("patch", f"{NODES}/s11/status"),
        ("patch", "/api/v1/namespaces/shop/pods/web-0"),
        ("delete", "/api/v1/namespaces/shop/pods/web-0"),
        ("post", "/api/v1/namespaces/shop/pods/web-0/eviction"),
        ("post", RACKS),
        ("patch", f"{RACKS}/r1"),
        ("delete", f"{RACKS}/r1"),
        ("put", f"{ADDRESSES}/10.8.0.1"),
        ("delete", ADDRESSES),
        ("get", "/api/v1/namespaces/shop/configmaps"),
        ("get", "/apis/events.k8s.io/v1/events"),
    ],
)
def test_what_no_agent_needs_is_refused_by_rbac(agent: Client, verb: str, path: str) -> None:
    arguments: tuple[dict[str, Any], ...] = () if verb in {"get", "delete"} else ({},)
    answer = getattr(agent, verb)(path, *arguments)
    assert (answer.status, answer.body["reason"]) == (403, "Forbidden")
    assert "ValidatingAdmissionPolicy" not in answer.message


def test_an_agent_does_what_its_role_says(cluster: ControlPlane, agent: Client) -> None:
    cluster.admin.apply(rack("access")).granted()
    agent.patch(f"{RACKS}/access/status", {"status": {"capacity": 506}}).granted()
    cluster.admin.delete(f"{RACKS}/access").granted()
    for path in (RACKS, ADDRESSES, f"{NODES}/s11", NODES, "/api/v1/pods?fieldSelector=spec.nodeName=s11"):
        agent.get(path).granted()


@pytest.mark.parametrize("path", [f"{RACKS}/access/status", "/api/v1/pods", NODES, f"{NODES}/s11", RACKS, ADDRESSES])
def test_without_the_role_an_agent_may_do_none_of_it(cluster: ControlPlane, path: str) -> None:
    stranger = cluster.client_for("somebody")
    answer = stranger.patch(path, {"status": {}}) if path.endswith("/status") else stranger.get(path)
    assert answer.status == 403


def test_an_agent_s_rights_are_what_the_role_says_and_nothing_else(agent: Client) -> None:
    (role,) = (manifest for manifest in manifests("access") if manifest["kind"] == "ClusterRole")
    said = {
        (group, resource, verb)
        for rule in role["rules"]
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
    others = {
        ("", name) for name in ("nodes/status", "pods/status", "pods/eviction", "secrets", "configmaps", "events")
    }
    others |= {("", "serviceaccounts/token"), ("coordination.k8s.io", "leases"), ("routed.dev", "racks/scale")}
    others |= {("apiextensions.k8s.io", "customresourcedefinitions"), ("rbac.authorization.k8s.io", "clusterroles")}
    others |= {("admissionregistration.k8s.io", "validatingadmissionpolicybindings")}
    asked = {(group, resource) for group, resource, _ in said} | others
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    may = {(group, what, verb) for group, what in asked for verb in verbs if _may(agent, group, what, verb)}
    assert may == said


def _may(user: Client, group: str, resource: str, verb: str) -> bool:
    plural, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": plural, "subresource": subresource, "verb": verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": "shop", **attributes}},
    }
    answer = user.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).granted()
    return bool(answer["status"]["allowed"])
