"""A whole audit over stand-ins: what is seen twice is found, what does not answer is not taken for empty."""

from __future__ import annotations

import json
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from routed.audit.ask import ask, ask_pod
from routed.audit.look import Looker
from routed.audit.model import Audit, Kind, Unobserved
from routed.audit.report import machine, tables
from routed.audit.report.page import render
from routed.audit.report.story import story
from routed.audit.report.summary import recordings
from routed.audit.run import Progress, run
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.mrt import Mrt
from routed.audit.sources.napalm import Login, Napalm
from routed.audit.sources.plan import RackFiles
from routed.settings import SettingsError
from tests.fakes.audit_site import RACK, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def kinds(audit: Audit) -> set[Kind]:
    return {finding.kind for finding in audit.findings}


async def test_a_healthy_rack_has_no_findings(site: Site) -> None:
    audit = await run(site.settings())
    assert audit.findings == ()
    assert (audit.observed, [rack.rack for rack in audit.racks]) == (5, ["r1"])
    assert {holding.server for holding in audit.racks[0].holdings} == {"s11"}


async def test_a_missing_route_is_found(site: Site) -> None:
    site.write("r1b", site.own)
    audit = await run(site.settings())
    assert kinds(audit) == {Kind.MISSING}
    assert {finding.where for finding in audit.findings} == {("r1b",)}


async def test_a_tor_says_itself_that_it_refused_a_missing_route(site: Site) -> None:
    site.write("r1b", site.own)
    site.refuse("r1b", ["10.101.0.2/32"], None)
    ipv4, ipv6 = (await run(site.settings())).findings
    assert ipv4.cause == "r1b received it and refused it: inbound policy"
    assert ipv6.cause == "r1b refused it: inbound policy, or a limit of prefixes"
    told = await ask(ip_address("10.101.0.2"), site.settings())
    assert told.findings[0].cause == ipv4.cause
    assert "no host route: received and refused" in tables.text(story(told), 200)
    site.refuse("r1b", [], [])
    for one in (await run(site.settings())).findings:
        assert one.cause == "no policy of r1b refused it: never received, or denied for another reason"
        assert one.next.endswith("neighbors 10.1.0.11 received-routes'")


async def test_a_rack_that_two_files_describe_is_refused_with_a_way_out(site: Site) -> None:
    (site.folder / "r1-copy.yaml").write_text(RACK.read_text())
    with pytest.raises(SettingsError, match=r"described by .*r1-copy\.yaml, too; list the files, or narrow `racks:`"):
        await run(site.settings())


async def test_the_labs_own_racks_are_one_pattern() -> None:
    plans = await RackFiles(tuple(sorted(RACK.parent.glob("*.yaml")))).plans()
    assert [plan.rack.name for plan in plans] == ["r1", "r2"]


async def test_what_is_right_at_the_second_look_is_not_reported(site: Site) -> None:
    site.write("r1b", site.own, call=1)
    assert (await run(site.settings())).findings == ()


async def test_what_goes_wrong_at_the_second_look_waits_for_the_next_audit(site: Site) -> None:
    site.write("r1a", [*site.own, *site.hosts, ("10.101.0.9/32", "10.1.0.11")], call=1)
    site.write("r1b", site.own, call=2)
    assert (await run(site.settings())).findings == ()
    site.write("r1b", site.own)
    assert kinds(await run(site.settings())) == {Kind.MISSING}


async def test_a_switch_that_hangs_is_not_empty(site: Site) -> None:
    site.hang("r1b")
    audit = await run(site.settings(timeout_s=0.5))
    assert kinds(audit) == {Kind.UNOBSERVED}
    assert audit.blind
    assert "no answer within 0.5 s" in audit.findings[0].text
    assert audit.racks[0].host_routes == {"r1a": 2, "r1b": None}
    assert audit.observed == 4


async def test_a_switch_that_hangs_once_is_looked_at_again(site: Site) -> None:
    site.hang("r1b", call=1)
    audit = await run(site.settings(timeout_s=2))
    assert (audit.findings, audit.blind, audit.observed) == ((), False, 5)


async def test_what_a_switch_hid_by_hanging_is_found(site: Site) -> None:
    site.hang("r1b", call=1)
    site.write("r1b", site.own)
    assert kinds(await run(site.settings(timeout_s=2))) == {Kind.MISSING}


async def test_a_switch_that_answers_now_and_then_could_not_be_observed(site: Site) -> None:
    for call in (1, 3):
        site.hang("r1b", call=call)
    site.write("r1a", site.own)
    audit = await run(site.settings(timeout_s=2))
    assert kinds(audit) == {Kind.MISSING, Kind.UNOBSERVED}


async def test_an_agent_that_does_not_answer(site: Site) -> None:
    (site.folder / "s12.json").unlink()
    audit = await run(site.settings())
    assert [(finding.kind, finding.subject) for finding in audit.findings] == [(Kind.UNOBSERVED, "s12")]


async def test_without_agents_a_file_says_who_should_have_what(site: Site) -> None:
    held = [{"address": str(address), "server": server, "pod": "shop/cart"} for address, server in site.pods.items()]
    (site.folder / "held.json").write_text(json.dumps({"holdings": {"r1": held}}))
    assert (await run(site.settings(agents=None, holdings="held.json"))).findings == ()
    site.write("r1b", site.own)
    assert kinds(await run(site.settings(agents=None, holdings="held.json"))) == {Kind.MISSING}


@pytest.mark.parametrize("text", ["", "[]", '{"holdings": {"r1": [{"address": "x"}]}}'])
async def test_a_file_that_says_nothing_is_not_nobody(site: Site, text: str) -> None:
    (site.folder / "held.json").write_text(text)
    assert kinds(await run(site.settings(agents=None, holdings="held.json"))) == {Kind.UNOBSERVED}


async def test_a_rack_that_the_file_does_not_name_is_unknown_and_not_empty(site: Site) -> None:
    (site.folder / "held.json").write_text('{"holdings": {"r2": []}}')
    audit = await run(site.settings(agents=None, holdings="held.json"))
    assert kinds(audit) == {Kind.UNOBSERVED}
    assert "says nothing about rack r1" in audit.findings[0].text
    (site.folder / "held.json").write_text('{"holdings": {"r1": []}}')
    assert kinds(await run(site.settings(agents=None, holdings="held.json"))) == {Kind.LEAKED}


async def test_a_file_of_some_pods_makes_the_others_no_leaks(site: Site) -> None:
    away, other = site.pods
    (site.folder / "held.json").write_text(
        json.dumps({"holdings": {"r1": [{"address": str(away), "server": "s11", "pod": "shop/cart"}]}})
    )
    whole = await run(site.settings(agents=None, holdings="held.json"))
    assert [(finding.kind, finding.subject) for finding in whole.findings] == [(Kind.LEAKED, str(other))]
    some = site.settings(agents=None, holdings="held.json", partial=True)
    audit = await run(some)
    assert audit.findings == ()
    assert {pool.used for pool in audit.racks[0].pools} == {None}
    site.write("r1b", site.own)
    found = {(finding.kind, finding.subject) for finding in (await run(some)).findings}
    assert found == {(Kind.MISSING, str(away)), (Kind.ASYMMETRIC, str(other))}


async def test_a_tor_whose_name_is_an_option_is_not_asked(site: Site) -> None:
    rack = site.folder / "r1.yaml"
    rack.write_text(rack.read_text().replace("name: r1a", 'name: "-oProxyCommand=reboot"'))
    audit = await run(site.settings(agents=None))
    assert {finding.subject for finding in audit.findings} >= {"-oProxyCommand=reboot"}
    assert "is no name that can stand in a command" in str(audit.findings)


async def test_with_nobody_to_ask_that_is_said(site: Site) -> None:
    audit = await run(site.settings(agents=None))
    assert [finding.kind for finding in audit.findings] == [Kind.UNOBSERVED]
    assert "nobody can be asked" in audit.findings[0].text


async def test_spines_are_looked_at(site: Site) -> None:
    leak = ("10.101.0.2/32", "10.254.1.3")
    site.write("sp1", [*((prefix, "10.254.1.3") for prefix, _ in site.own), leak])
    switches = site.settings().switches.model_dump() | {"spines": ["sp1"]}
    assert kinds(await run(site.settings(switches=switches))) == {Kind.BEYOND_RACK}
    site.hang("sp1")
    audit = await run(site.settings(switches=switches, timeout_s=0.5))
    assert [(finding.kind, finding.subject) for finding in audit.findings] == [(Kind.UNOBSERVED, "sp1")]


async def test_progress_counts_every_answer(site: Site) -> None:
    told: list[Progress] = []
    site.write("r1b", site.own)
    await run(site.settings(), told.append)
    assert {one.looked_at for one in told} == {"r1a", "r1b", "s11", "s12"}
    assert [(one.done, one.of, one.look) for one in told] == [
        (number, 4, look) for look in (1, 2) for number in (1, 2, 3, 4)
    ]


MEET = """
touch "$1/$2.came"; other=$([ "$2" = r1a ] && echo r1b || echo r1a)
until [ -e "$1/$other.came" ]; do sleep 0.01; done
exec cat "$1/$2"
"""


@pytest.mark.parametrize(("parallel", "unseen"), [(2, 0), (1, 1)])
async def test_no_more_looks_than_allowed_at_the_same_time(site: Site, parallel: int, unseen: int) -> None:
    """Each switch answers once the other has been asked."""
    command = ["sh", "-c", MEET, "switch", str(site.folder), "{name}"]
    settings = site.settings(
        agents=None,
        switches={"defaults": {"source": "frr", "command": command}},
        parallel=parallel,
        timeout_s=10 if parallel == 2 else 1,
    )
    view = await Looker(settings, lambda _name, _answered: None).rack(site.plan, None)
    assert sum(isinstance(seen, Unobserved) for seen in view.tors.values()) == unseen


async def test_switches_that_nobody_can_look_at(site: Site) -> None:
    with pytest.raises(SettingsError, match="nothing says how to look at r1a"):
        await run(site.settings(switches={}))
    other = {"defaults": {"source": "frr", "command": ["vtysh"]}, "r9z": {"source": "bird", "command": ["birdc"]}}
    with pytest.raises(SettingsError, match=r"switches\.r9z: no rack has such a ToR"):
        await run(site.settings(switches=other))


async def test_no_racks_no_audit(site: Site) -> None:
    (site.folder / "no-config").write_text("{}")
    with pytest.raises(CouldNotObserve, match=r"the Kubernetes API of .*no-config"):
        await run(site.settings(racks=[], kubernetes={"kubeconfig": "no-config"}))


async def test_an_address_of_no_plan_is_looked_for_in_every_rack(site: Site) -> None:
    site.write("r1a", [*site.own, *site.hosts, ("192.0.2.7/32", "10.1.0.11")])
    told = await ask(ip_address("192.0.2.7"), site.settings())
    assert [(finding.kind, finding.where) for finding in told.findings] == [(Kind.FOREIGN, ("r1a",))]
    assert (await ask(ip_address("192.0.2.8"), site.settings())).findings == ()


async def test_a_pods_addresses_are_told_from_one_look(site: Site) -> None:
    site.write("r1b", site.own, call=1)
    site.refuse("r1b", ["10.101.0.2/32"], ["fd00:101::1:0/128"])
    told = await ask_pod("shop/cart", site.settings())
    assert [(str(one.address), one.findings[0].kind) for one in told] == [
        ("10.101.0.2", Kind.MISSING),
        ("fd00:101::1:0", Kind.MISSING),
    ]
    assert (site.folder / "r1b.calls").read_text() == "1\n"


async def test_a_pod_that_partial_holdings_do_not_name_may_be_there(site: Site) -> None:
    few = [{"address": "10.101.0.2", "server": "s11", "pod": "shop/cart"}]
    (site.folder / "few.json").write_text(json.dumps({"holdings": {"r1": few}}))
    alone = site.settings(agents=None, holdings="few.json", partial=True)
    (told,) = await ask_pod("shop/cart", alone)
    assert str(told.address) == "10.101.0.2"
    with pytest.raises(CouldNotObserve, match="the holdings are partial and do not name a pod shop/till"):
        await ask_pod("shop/till", alone)
    for denied in (
        site.settings(agents=None, holdings="few.json"),
        site.settings(holdings="few.json", partial=True),  # every agent was asked, and knows its own pods
    ):
        with pytest.raises(SettingsError, match="no rack has a pod shop/till"):
            await ask_pod("shop/till", denied)


async def test_an_old_export_is_used_and_said(site: Site) -> None:
    site.export("s11", age=timedelta(hours=3, minutes=59))
    audit = await run(site.settings())
    assert (audit.findings, list(audit.recorded)) == ((), ["s11"])
    assert recordings(audit) == "not live: s11 (3 hours ago); what has changed since shows as findings"
    assert recordings(audit) in tables.text(tables.findings(audit), 200)
    assert recordings(audit) in render(audit)
    assert list(json.loads(machine.to_json(audit))["recorded"]) == ["s11"]
    told = await ask(ip_address("10.101.0.2"), site.settings())
    assert list(told.recorded) == ["s11"]
    assert "UTC: a recording" in tables.text(story(told), 200)


async def test_an_export_that_is_too_old_shows_nothing(site: Site) -> None:
    site.export("s11", age=timedelta(days=3, hours=1))
    audit = await run(site.settings())
    assert kinds(audit) == {Kind.UNOBSERVED}
    assert "s11 was recorded 3 days ago; record it again, or raise max_age_s" in audit.findings[0].text
    assert audit.recorded == {}
    allowed = await run(site.settings(max_age_s=4 * 86400))
    assert (allowed.findings, list(allowed.recorded)) == ((), ["s11"])


async def test_an_export_from_the_future_shows_nothing(site: Site) -> None:
    site.export("s11", age=timedelta(hours=-1))
    audit = await run(site.settings())
    assert (kinds(audit), audit.recorded) == ({Kind.UNOBSERVED}, {})
    assert "s11 is dated in the future" in audit.findings[0].text


async def test_what_was_exported_just_now_is_live(site: Site) -> None:
    for age in (timedelta(minutes=4), timedelta(minutes=-4)):
        site.export("s11", age=age)
        assert (await run(site.settings())).recorded == {}


def test_switches_are_read_as_the_file_says(site: Site) -> None:
    napalm = {"source": "napalm", "driver": "eos", "user": "audit", "host": "{name}.example.org"}
    switches = {
        "r1a": {"source": "mrt", "file": "dumps/{name}.mrt", "peer": "10.255.1.1"},
        "r1b": napalm | {"password_file": "secret", "options": {"transport": "ssh"}},
    }
    looker = Looker(site.settings(switches=switches), lambda *_: None)
    assert looker._switch("r1a") == Mrt("r1a", site.folder / "dumps/r1a.mrt", ip_address("10.255.1.1"), 20)
    login = Login("eos", "r1b.example.org", "audit", site.folder / "secret", None, {"transport": "ssh"})
    assert looker._switch("r1b") == Napalm("r1b", login, 20)
