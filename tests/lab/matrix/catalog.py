"""The events of the matrix, in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab.matrix import deeds, reuse
from tests.lab.matrix.deeds import cut, in_turn, kill, kill_daemon, mute, restart_daemon, restore, revive, unmute
from tests.lab.matrix.model import HEALS, NONE_LOST, Budget, Control, Detector, Event, Step, no_deed
from tests.lab.matrix.traffic import Loss
from tests.servers import NO_STEERING

CARRIER, BFD, PROBE = (Budget(detector=detector) for detector in (Detector.CARRIER, Detector.BFD, Detector.PROBE))
LINK, LINKS = "r1a:s11", ("r1a:s11", "r1b:s11")
UPLINKS = ("r1a:up1", "r1a:up2")
SPINE = ("sp1:to-r1a", "sp1:to-r1b", "sp1:to-r2a", "sp1:to-r2b", "r1a:up1", "r1b:up1", "r2a:up1", "r2b:up1")
NO_PROBE = {"probe_s: 0.2": "probe_s: null"}
NO_GRACEFUL_RESTART = {"graceful_restart_s: 30": "graceful_restart_s: 0"}
WITHOUT_S = 10
"""How long a control is watched: it shows that the loss would not end."""


def stays_black(losses: Mapping[str, Loss]) -> bool:
    """Tell whether a direction was still lossy at the end."""
    return any(loss.open for loss in losses.values())


def loses(losses: Mapping[str, Loss]) -> bool:
    """Tell whether anything was lost."""
    return any(loss.packets for name, loss in losses.items() if name != "host")


STEADY = Event(
    "steady",
    "Nothing happens: what the harness itself loses.",
    (Step("nothing happens, 30 s", no_deed, NONE_LOST, watch_s=30, limit_s=35, facts="0 / 0 / 0 / 0 / 0"),),
)
LINK_CUT = Event(
    "link-cut",
    "The cable between the server and ToR A loses carrier.",
    (
        Step("cable to ToR A cut", cut(LINK), CARRIER, watch_s=5, facts="120 / 10 / 170 / 0 / 0"),
        Step("... repaired", restore(LINK), CARRIER, watch_s=10, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=restore(LINK),
    controls=(
        Control(
            "without steering",
            deeds.configured(NO_STEERING),
            Step(
                "cable cut, no steering",
                cut(LINK),
                HEALS,
                limit_s=WITHOUT_S,
                facts="> 10000 / 0 / > 10000 / 0 / 0",
            ),
            stays_black,
            undo=restore(LINK),
        ),
    ),
)
SILENT_TO_TOR = Event(
    "silent-to-tor",
    "What the server sends to ToR A is lost; carrier stays, and ToR A's own frames arrive.",
    (
        Step(
            "server → ToR A silently lost",
            mute("s11:etha"),
            PROBE,
            watch_s=8,
            facts="830 / 709 / 880 / 709 / 0 (both ways lost)",
        ),
        Step("... repaired", unmute("s11:etha"), CARRIER, watch_s=12, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=unmute("s11:etha"),
    controls=(
        Control(
            "without the probe",
            deeds.configured(NO_PROBE),
            Step(
                "server → ToR A lost, LACP alone notices",
                mute("s11:etha"),
                HEALS,
                watch_s=8,
                facts="2820 / 2440 / 2870 / 2440 / 0 (both ways lost)",
            ),
            loses,
            undo=unmute("s11:etha"),
        ),
    ),
)
SILENT_TO_SERVER = Event(
    "silent-to-server",
    "What ToR A sends to the server is lost; carrier stays, and the server's own frames arrive.",
    (
        Step("ToR A → server silently lost", mute(LINK), PROBE, watch_s=8, facts="as above"),
        Step("... repaired", unmute(LINK), CARRIER, watch_s=12, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=unmute(LINK),
    controls=(
        Control(
            "without the probe",
            deeds.configured(NO_PROBE),
            Step("ToR A → server lost, LACP alone notices", mute(LINK), HEALS, watch_s=8, facts="as above"),
            loses,
            undo=unmute(LINK),
        ),
    ),
)
TOR_DEATH = Event(
    "tor-death",
    "ToR A loses its power: every cable of it loses carrier. It boots again.",
    (
        Step("ToR A dies", kill("r1a"), CARRIER, watch_s=12, facts="10 / 10 / 10 / 10 / 10"),
        Step("... boots again", revive("r1a"), CARRIER, watch_s=20, limit_s=60, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=deeds.ensure_alive("r1a"),
)
UPLINKS_DOWN = Event(
    "uplinks-down",
    "ToR A loses both cables to the spines; its server ports are fine.",
    (
        Step("ToR A's uplinks cut", cut(*UPLINKS), CARRIER, watch_s=12, facts="0 / 10 / 10 / 10 / 0"),
        Step("... repaired", restore(*UPLINKS), CARRIER, watch_s=15, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=restore(*UPLINKS),
    controls=(
        Control(
            "without monitor-link and steering",
            deeds.configured(NO_STEERING),
            Step(
                "uplinks cut, ToR daemon dead, no steering",
                cut(*UPLINKS),
                HEALS,
                limit_s=WITHOUT_S,
                facts="> 6040 / > 14990 / > 6040 / > 8050 / > 8050",
            ),
            stays_black,
            prepare=kill_daemon("r1a", "tord"),
            undo=in_turn(restore(*UPLINKS), deeds.ensure_daemon("r1a", "tord")),
        ),
    ),
)
SPINE_DOWN = Event(
    "spine-down",
    "A spine loses its power and boots again.",
    (
        Step("spine dies", kill("sp1"), CARRIER, watch_s=6, facts="8 / 9 / 0 / 0 / 9"),
        Step("... boots again", revive("sp1"), CARRIER, watch_s=12, limit_s=60, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=deeds.ensure_alive("sp1"),
)
SPINE_SILENT = Event(
    "spine-silent",
    "A spine forwards nothing any more, and all its cables keep their carrier.",
    (
        Step("spine silent", mute(*SPINE), BFD, watch_s=6, facts="970 / 940 / 0 / 0 / 969"),
        Step("... repaired", unmute(*SPINE), CARRIER, watch_s=10, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=unmute(*SPINE),
)
TOR_BGPD = Event(
    "tor-bgpd",
    "The BGP daemon of ToR A is killed, and started again.",
    (
        Step("ToR A's bgpd killed", kill_daemon("r1a", "bgpd"), CARRIER, watch_s=10, facts="68 / 18 / 28 / 18 / 68"),
        Step("... started", deeds.start_daemon("r1a", "bgpd"), CARRIER, watch_s=15, facts="0 / 0 / 0 / 0 / 0"),
    ),
    undo=deeds.ensure_daemon("r1a", "bgpd"),
)
AGENT_KILL = Event(
    "agent-kill",
    "The agent is killed; ExaBGP goes on alone for longer than the hold time; the agent starts again.",
    (Step("agent kill -9, absent, started", deeds.kill_agent, NONE_LOST, limit_s=60),),
)
AGENT_UPGRADE = Event(
    "agent-upgrade",
    "SIGTERM, another version starts, and back again; the pods run on.",
    (Step("agent upgraded and downgraded", deeds.upgrade, NONE_LOST, limit_s=60),),
)
EXABGP_KILL = Event(
    "exabgp-kill",
    "ExaBGP is killed; the agent replaces it.",
    (
        Step(
            "ExaBGP kill -9, replaced", deeds.kill_speaker, NONE_LOST, limit_s=60, watch_s=12, facts="0 / 0 / 0 / 0 / 0"
        ),
    ),
    controls=(
        Control(
            "without graceful restart",
            deeds.configured(NO_GRACEFUL_RESTART, peering=True),
            Step(
                "ExaBGP kill -9, no graceful restart",
                deeds.kill_speaker,
                HEALS,
                facts="> 5960 / 0 / > 5960 / 0 / 0",
            ),
            loses,
        ),
    ),
)
AGENT_AND_EXABGP = Event(
    "agent-and-exabgp",
    "Agent and ExaBGP are killed together, as with their container; the agent starts again.",
    (
        Step(
            "agent and ExaBGP kill -9, started",
            deeds.kill_agent_and_speaker,
            NONE_LOST,
            limit_s=60,
            watch_s=12,
            facts="0 / 0 / 0 / 0 / 0",
        ),
    ),
    controls=(
        Control(
            "without graceful restart",
            deeds.configured(NO_GRACEFUL_RESTART, peering=True),
            Step(
                "both kill -9, no graceful restart",
                deeds.kill_agent_and_speaker,
                HEALS,
                facts="2340 / 0 / 2340 / 0 / 0 (restarted after 6 s)",
            ),
            loses,
        ),
    ),
)
VSWITCHD = Event(
    "ovs-vswitchd",
    "ovs-vswitchd on the server is killed and started again at once: the server has no switch meanwhile.",
    (Step("ovs-vswitchd kill -9, started", restart_daemon("s11", "ovs-vswitchd"), Budget(within_s=5), watch_s=6),),
    undo=deeds.ensure_daemon("s11", "ovs-vswitchd"),
)
OVSDB = Event(
    "ovsdb-server",
    "ovsdb-server on the server is killed and started again at once: the switch reads its whole configuration anew.",
    (Step("ovsdb-server kill -9, started", restart_daemon("s11", "ovsdb-server"), Budget(within_s=2), watch_s=6),),
    undo=deeds.ensure_daemon("s11", "ovsdb-server"),
)
GATEWAY_MAC = Event(
    "gateway-mac",
    "Both ToRs' gateway gets another MAC address and says so (gratuitous ARP and ND), as a router does.",
    (
        Step(
            "gateway MAC changed, announced",
            deeds.change_gateway(deeds.OTHER_MAC, tell=True),
            Budget(within_s=1),
            watch_s=6,
            limit_s=90,
        ),
        Step(
            "... and back",
            deeds.change_gateway(deeds.GATEWAY_MAC, tell=True),
            Budget(within_s=1),
            watch_s=6,
            limit_s=90,
        ),
    ),
    undo=deeds.change_gateway(deeds.GATEWAY_MAC, tell=True),
)
GATEWAY_MAC_UNTOLD = Event(
    "gateway-mac-untold",
    "The same, but nobody says so: servers have to find out.",
    (
        Step(
            "gateway MAC changed, not announced",
            deeds.change_gateway(deeds.OTHER_MAC, tell=False),
            HEALS,
            watch_s=6,
            limit_s=90,
        ),
    ),
    undo=deeds.change_gateway(deeds.GATEWAY_MAC, tell=True),
)
SERVER_OFF = Event(
    "server-off",
    "Both cables of the server are cut, and repaired.",
    (
        Step(
            "both cables cut",
            cut(*LINKS),
            Budget(packets=0, directions=("bystander",)),
            watch_s=12,
            limit_s=12,
            stays_dark=True,
        ),
        Step("... repaired", restore(*LINKS), Budget(within_s=10), watch_s=12, limit_s=60, dark=True),
    ),
    undo=restore(*LINKS),
)
BOTH_TORS = Event(
    "both-tors",
    "Both ToRs restarted one after the other, the second when the first is ready again and servers trust it.",
    (
        Step(
            "ToR A restarted, then ToR B",
            in_turn(kill("r1a"), revive("r1a"), deeds.at_rest, kill("r1b"), revive("r1b"), deeds.at_rest),
            CARRIER,
            watch_s=20,
            limit_s=240,
        ),
    ),
    undo=in_turn(deeds.ensure_alive("r1a"), deeds.ensure_alive("r1b")),
)
CHURN = Event(
    "churn",
    "200 pods come and go on the tested server and on the bystander's.",
    (Step("200 pods come and go", deeds.churn, NONE_LOST, limit_s=120),),
)
CHURN_CUT = Event(
    "churn-link-cut",
    "The cable to ToR A is cut while 200 pods come and go.",
    (
        Step("cable cut while 200 pods come and go", deeds.churn_meanwhile(cut(LINK)), CARRIER, limit_s=120),
        Step("... repaired", restore(LINK), CARRIER, watch_s=10),
    ),
    undo=restore(LINK),
)
EVENTS = (
    STEADY,
    LINK_CUT,
    SILENT_TO_TOR,
    SILENT_TO_SERVER,
    TOR_DEATH,
    UPLINKS_DOWN,
    SPINE_DOWN,
    SPINE_SILENT,
    TOR_BGPD,
    AGENT_KILL,
    AGENT_UPGRADE,
    EXABGP_KILL,
    AGENT_AND_EXABGP,
    VSWITCHD,
    OVSDB,
    GATEWAY_MAC,
    GATEWAY_MAC_UNTOLD,
    SERVER_OFF,
    *reuse.EVENTS,
    BOTH_TORS,
    CHURN,
    CHURN_CUT,
)
BY_NAME = {event.name: event for event in EVENTS}
