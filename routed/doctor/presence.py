"""Checks of the agent: does it run, are its socket, ledger and password as they should be. Pure."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from ipam.errors import PoolError
from ipam.leases import check_shares
from ipam.model import Pool
from routed.cni.install import CONFIGURATION, PORTMAP
from routed.doctor.facts import Facts, File, Unseen, ledger_path, permissions
from routed.doctor.findings import Finding, error, ok, unknown, warning
from routed.domain.snapshot import DRAINED


def check_pools(facts: Facts) -> Iterator[Finding]:
    """No address can be handed out twice, and each can be announced by this server."""
    settings = facts.settings
    try:
        pools = [Pool(pool.prefix, pool.gateway, pool.reserved) for pool in settings.pools]
        check_shares(pools, {name: server.owns for name, server in settings.servers.items()})
    except PoolError as mistake:
        yield error("pools", str(mistake), "correct pools, or servers.*.owns, in the rack file; the agent refuses it")
        return
    unreachable = settings.unreachable_pools(facts.server.name)
    if unreachable:
        yield error(
            "pools",
            f"{', '.join(map(str, unreachable))}: this server has no address of that family, by which the ToRs would "
            "reach pods there: they get addresses that answer nobody",
            f"add one to servers.{facts.server.name}.addresses (where Racks are objects: to the Node, as InternalIP or "
            "in the annotation routed.dev/addresses), or leave the pools out",
        )
    else:
        yield ok("pools", f"{len(pools)} pools, {len(settings.servers)} servers, no overlap")


def check_agent(facts: Facts) -> Iterator[Finding]:
    """The agent answers and can do its work."""
    if isinstance(facts.agent, Unseen):
        level = error if facts.root else unknown
        yield level("agent", facts.agent.why, facts.keeper.explain)
    elif isinstance(facts.agent.ailment, Unseen):
        yield unknown(
            "agent",
            f"answers, but does not say whether it is ready: {facts.agent.ailment.why}",
            f"correct metrics.port in the rack file, then {facts.keeper.restart}",
        )
    elif facts.agent.ailment is not None:
        yield error(
            "agent",
            f"cannot do its work: {facts.agent.ailment}",
            f"look for the cause below and in {facts.keeper.log}",
        )
    else:
        yield ok("agent", "runs" if facts.files.drained else "runs, and can attach pods")


def check_drain(facts: Facts) -> Iterator[Finding]:
    """The server is in the fabric."""
    drained = facts.files.drained
    if isinstance(drained, Unseen):
        yield unknown("drain", drained.why, "run as root")
    elif drained:
        yield warning("drain", DRAINED, "when it is to come back, `routed undrain`, with the agent running")


def check_cni_socket(facts: Facts) -> Iterator[Finding]:
    """The plugin finds the agent, and nobody but root does."""
    path, socket = facts.settings.cni.socket, facts.files.cni_socket
    if socket is None:
        if isinstance(facts.agent, Unseen):
            yield unknown("cni socket", f"{path} is not there, and no agent runs to make it", "see `agent` above")
        else:
            yield error("cni socket", f"{path} is not there", f"{facts.keeper.log}, then {facts.keeper.restart}")
    elif not stat.S_ISSOCK(socket.mode):
        yield error("cni socket", f"{path} is no socket", f"`rm {path}`, then {facts.keeper.restart}")
    elif not socket.root_only:
        yield error(
            "cni socket",
            f"{path} is open to others than root ({permissions(socket)})",
            f"`chown root {path}; chmod 0600 {path}`, and find out who changed it",
        )
    else:
        yield ok("cni socket", f"{path} ({permissions(socket)})")


def check_host_ports(facts: Facts) -> Iterator[Finding]:
    """Pods that want host ports get them, and can answer whoever connects to one."""
    chain, portmap, folder = facts.files.chain, facts.files.portmap, facts.files.cni_bin_dir
    if chain is None:
        return
    if isinstance(chain, Unseen):
        yield unknown(
            "host ports", chain.why, f"correct it, or `rm` it and restart the agent, which writes {CONFIGURATION}"
        )
        return
    told = [one.get("type") for one in chain if one.get("capabilities", {}).get("portMappings")]
    install = f"install the CNI plugins, release 1.2.0 or later, into {folder} (no links), then restart the agent"
    if not told:
        yield ok("host ports", "ignored: no plugin is told of them")
    elif PORTMAP not in told:
        missing = f"there is no portmap in {folder} that could map them"
        why = portmap.why if isinstance(portmap, Unseen) else missing
        yield warning("host ports", f"refused: {why}", install)
    elif isinstance(portmap, Unseen):
        yield unknown("host ports", portmap.why, f"run as root; {folder} must hold the program itself, not a link")
    elif portmap is None:
        found = f"{CONFIGURATION} names portmap, which is not in {folder}: no pod starts or ends"
        yield error("host ports", found, install)
    elif not portmap or not all(one.get("masqAll") for one in chain if one.get("type") == PORTMAP):
        yield error(
            "host ports",
            "mapped, but clients on other servers get no answer: portmap does not do `masqAll`",
            f"{install}, and give portmap `masqAll: true` in {CONFIGURATION}",
        )
    else:
        yield _iptables(facts)


def _iptables(facts: Facts) -> Finding:
    """What `portmap` cannot do without."""
    there = facts.files.iptables
    if isinstance(there, Unseen):  # always so in an agent's container, and then no reason to call the server unknown
        return ok("host ports", there.why)
    if not there:
        level = error if facts.root else unknown
        found = "mapped by `iptables`, which is not there: a pod with a `hostPort` neither starts nor ends"
        return level("host ports", found, "install the package `iptables`")
    return ok("host ports", "portmap follows in the chain")


def check_state(facts: Facts) -> Iterator[Finding]:
    """What the agent must not forget has a place to be written to."""
    path, state = facts.settings.paths.state, facts.files.state
    if state is None:
        yield _future_state(facts)
    elif not stat.S_ISDIR(state.mode):
        yield error("state", f"{path} is no directory", f"move it away (`mv {path} {path}.old`); the agent makes one")
    elif not state.writable:
        level = error if facts.root else unknown
        yield level("state", f"{path} cannot be written to", f"`findmnt -T {path}`: is it mounted read-only?")
    else:
        yield ok("state", f"{path} ({permissions(state)})")


def _future_state(facts: Facts) -> Finding:
    path, parent = facts.settings.paths.state, facts.files.state_parent
    if not isinstance(facts.agent, Unseen):
        return error(
            "state", f"{path} is gone under a running agent", f"`mkdir -m 0700 {path}`, then {facts.keeper.restart}"
        )
    if parent is not None and parent.writable:
        return ok("state", f"{path} is not there yet; the agent makes it")
    level = error if facts.root else unknown
    return level("state", f"{path} is not there and cannot be made", f"`mkdir -p -m 0700 {path}`")


def check_ledger(facts: Facts) -> Iterator[Finding]:
    """The ledger is there and is one; its contents are the agent's to check."""
    path, ledger = ledger_path(facts.settings), facts.files.ledger
    if isinstance(ledger, Unseen):
        yield unknown("ledger", ledger.why, "run as root; `dmesg` tells of a failing disk")
    elif ledger:
        yield ok("ledger", str(path))
    elif ledger is not None:
        yield error(
            "ledger",
            f"{path} is no ledger",
            f"keep it (`mv {path} {path}.broken`), drain this node's pods, then {facts.keeper.restart}",
        )
    elif isinstance(facts.agent, Unseen):
        yield ok("ledger", "none yet; the agent makes it when it first starts")
    else:
        yield error(
            "ledger",
            f"{path} is gone under a running agent: what it writes is lost when it ends",
            f"drain this node's pods, then {facts.keeper.restart}",
        )


def check_password(facts: Facts) -> Iterator[Finding]:
    """The secret of the BGP sessions can be read, by root alone."""
    path = facts.settings.bgp.password_file
    if path is None:
        return
    file: File | None = facts.files.password
    if facts.files.password_error is not None:
        level = error if facts.root else unknown
        yield level(
            "password",
            facts.files.password_error,
            f"write the secret into it as one line, then `chmod 0600 {path}`; the agent does not start without",
        )
    elif file is not None and not file.root_only:
        yield error(
            "password",
            f"{path} is open to others than root ({permissions(file)})",
            f"`chown root {path}; chmod 0600 {path}`, and change the secret if others could log in here",
        )
    else:
        yield ok("password", f"{path} can be read by root alone")
