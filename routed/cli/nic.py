"""`routed nic`, and `routed doctor nic`: SR-IOV NICs, looked at and set up."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ovs_flows.errors import OvsError
from routed.attach.errors import KernelError
from routed.attach.sysfs import NoAnswer
from routed.cli.findings import summary, table
from routed.cli.options import DEFAULT_CONFIG, Config
from routed.cli.show import Output, OutputOption
from routed.doctor.database import database
from routed.doctor.facts import Unseen
from routed.doctor.findings import exit_status
from routed.doctor.nic import judge, pfs
from routed.doctor.rdma import judge as judge_rdma
from routed.logs import keep_silent
from routed.nic.found import Found, Wanted
from routed.nic.look import look
from routed.nic.machine import Host, NoEffectError, carry_out
from routed.nic.plan import Plan, plan
from routed.nic.rdma import look as look_rdma
from routed.nic.steps import needs_restart
from routed.settings import BridgeSettings, PathSettings, checked, is_local, local, read, validated

_EXPECTED = (KernelError, OvsError, NoEffectError)
app = typer.Typer(add_completion=False, no_args_is_help=True)
Tree = Annotated[
    Path, typer.Option("--sysfs", envvar="ROUTED_SYSFS", help="Where sysfs is mounted; in a container, the server's.")
]
DEFAULT_TREE = Path("/sys")
DOCTOR_HELP = """\
Say what SR-IOV NICs this server has, and what keeps pods' flows out of hardware; change nothing.

Shows every PF, its VFs and their representors, then what is missing, each with the command that mends it. The rack \
file's `bridge` names bridge, uplink and members; a server's own file (agent.yaml) does as well.

Exit status: 0 nothing is missing, 1 something is, 2 the file cannot be used, 3 something could not be observed.
"""
SETUP_HELP = """\
Make this server's NIC ready: VFs, switchdev mode, bond, bridge, offload. Run twice, it does nothing.

Nothing runs it unless you do: `routed agent` never changes a NIC's mode. What somebody may be using (a VF in a pod, a \
port with addresses) is an obstacle: it is named, and nothing is done at all.

Exit status: 0 ready, 1 an obstacle or a step that failed (0 with --best-effort), 2 the file cannot be used.

Examples:

routed nic setup --vfs 32 --dry-run

routed nic setup --vfs 32 --mtu 9000
"""


@app.callback()  # one command alone would not be a group
def nics() -> None:
    """Set up NICs with SR-IOV and hardware offload."""


@app.command(help=SETUP_HELP)
def setup(  # noqa: PLR0913, PLR0917 - one option per thing that can be wanted
    vfs: Annotated[int, typer.Option(min=0, envvar="ROUTED_NIC_VFS", help="VFs of each port.", show_default=False)],
    config: Config = DEFAULT_CONFIG,
    mtu: Annotated[
        int | None,
        typer.Option(min=1280, envvar="ROUTED_NIC_MTU", help="Of links and representors.", show_default="as it is"),
    ] = None,
    hardware_only: Annotated[
        bool, typer.Option(help="VFs, mode and offload alone: for the start of a server, before its network.")
    ] = False,
    best_effort: Annotated[
        bool, typer.Option(help="Exit with 0 also when something is in the way: an agent can do without.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Print what would be done, as commands.")] = False,
    sysfs: Tree = DEFAULT_TREE,
) -> None:
    """Plan, then print or do."""
    keep_silent()
    bridge, paths = read_bridge(config)
    members = bridge.members or (bridge.uplink,)
    wanted = Wanted(bridge.name, bridge.uplink, members, vfs, mtu, hardware_only)
    try:
        plan = asyncio.run(_set_up(wanted, bridge, paths, sysfs, dry_run=dry_run))
    except _EXPECTED as error:
        typer.echo(f"routed: {error}", err=True)
        raise typer.Exit(0 if best_effort else 1) from None
    for line in told(plan, dry_run=dry_run):
        typer.echo(line)
    raise typer.Exit(1 if plan.obstacles and not best_effort else 0)


def nic(
    config: Config = DEFAULT_CONFIG,
    output: OutputOption = Output.TABLE,
    sysfs: Tree = DEFAULT_TREE,
    rdma: Annotated[bool, typer.Option("--rdma", help="Look as well for what pods with RDMA (RoCE) need.")] = False,
) -> None:
    """Print what there is and the findings; exit with their status."""
    keep_silent()
    bridge, paths = read_bridge(config)
    try:
        found = asyncio.run(_look(bridge, paths, sysfs))
    except _EXPECTED as error:
        typer.echo(f"routed: {error}", err=True)
        raise typer.Exit(3) from None
    findings = judge(found, bridge)
    if rdma:
        findings += judge_rdma(found, look_rdma(sysfs, Path("/proc"), pfs(found, bridge)), bridge)
    if output is Output.JSON:
        document = {"nics": inventory(found), "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(document, indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(nic_table(inventory(found)), "", table(findings), summary(findings), sep="\n", highlight=False)
    raise typer.Exit(exit_status(findings))


def read_bridge(config: Path) -> tuple[BridgeSettings, PathSettings]:
    """Return bridge and paths of a rack file, or of a server's own file; no agent has to have run."""
    document = read(config)
    if not is_local(document):
        settings = validated(document, str(config))
        return settings.bridge, settings.paths
    paths = local(document, str(config)).paths
    return checked(BridgeSettings, document.get("bridge", {}), f"{config}: bridge"), paths


def told(plan: Plan, *, dry_run: bool) -> Iterator[str]:
    """Return what there is to say after a run, or instead of one."""
    yield from (f"obstacle: {obstacle}" for obstacle in plan.obstacles)
    if plan.obstacles:
        yield "nothing was done"
    elif not plan.steps:
        yield "ready: nothing to do"
    elif dry_run:
        yield from (step.command for step in plan.steps)
    if needs_restart(plan.steps):
        yield "then, once: systemctl restart openvswitch-switch"


def inventory(found: Found) -> list[dict[str, Any]]:
    """Return every PF with its VFs and representors, as JSON has it."""
    bonds = {port.index: name for name, port in found.ports.items()}
    rows = []
    for pf in found.pfs:
        uplinks = found.uplinks(pf)
        mode = found.modes[pf.address]
        masters = {bonds.get(found.ports[name].master or 0, "") for name in uplinks}
        rows.append(
            {
                "pf": pf.address,
                "id": f"{pf.vendor}:{pf.device}",
                "driver": pf.driver,
                "mode": None if isinstance(mode, Unseen) else mode,
                "switch": pf.switch_id or None,
                "uplinks": list(uplinks),
                "bond": ", ".join(sorted(masters - {""})) or None,
                "most_vfs": pf.most_vfs,
                "vfs": [
                    {
                        "vf": vf.address,
                        "index": vf.index,
                        "driver": vf.driver or None,
                        "devices": list(vf.devices),
                        "in_use": found.in_use(vf),
                        "representor": None if isinstance(vf.representor, NoAnswer) else vf.representor.name,
                        "reason": vf.representor.why if isinstance(vf.representor, NoAnswer) else None,
                    }
                    for vf in pf.vfs
                ],
            }
        )
    return rows


def nic_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return PFs, and below each its VFs."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("function", "driver", "device", "representor", "switch", "bond"):
        grid.add_column(column, overflow="fold")
    for row in rows:
        uplinks = ", ".join(row["uplinks"]) or "-"
        mode = row["mode"] or "mode unknown"
        count = f"{mode}, {len(row['vfs'])}/{row['most_vfs']} VFs"
        grid.add_row(row["pf"], escape(row["driver"] or "-"), uplinks, count, row["switch"] or "-", row["bond"] or "-")
        for vf in row["vfs"]:
            device = ", ".join(vf["devices"]) or ("in use" if vf["in_use"] else "-")
            reason = f"none: {vf['reason']}" if vf["reason"] else vf["representor"]
            grid.add_row(f"  {vf['index']:>3} {vf['vf']}", vf["driver"] or "-", device, escape(reason), "", "")
    return grid


async def _look(bridge: BridgeSettings, paths: PathSettings, sysfs: Path) -> Found:
    async with database(paths.ovs / "db.sock", bridge.name, bridge.uplink) as ovsdb:
        return await look(sysfs, bridge, ovsdb)


async def _set_up(wanted: Wanted, bridge: BridgeSettings, paths: PathSettings, sysfs: Path, *, dry_run: bool) -> Plan:
    async with database(paths.ovs / "db.sock", bridge.name, bridge.uplink) as ovsdb:
        if dry_run:
            return plan(await look(sysfs, bridge, ovsdb), wanted)
        host = Host(sysfs, ovsdb)
        return await carry_out(host, lambda: look(sysfs, bridge, ovsdb), wanted, lambda step: typer.echo(step.command))
