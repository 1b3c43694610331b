from __future__ import annotations

from containerlab.images.tor.tord import MonitorLink, Port, has_partner, parse_ports, prefix, wanted_hosts

PORTS = (Port("s11", ("10.1.0.11", "fd00:1::11")), Port("s12", ("10.1.0.12",)))


def test_ports_are_read_without_comments() -> None:
    assert parse_ports("# port key hosts\n\ns11 11 10.1.0.11 fd00:1::11 # first\ns12 12 10.1.0.12\n") == PORTS


def test_a_host_has_a_route_while_its_port_is_good_and_it_answers() -> None:
    everybody = {"10.1.0.11", "fd00:1::11", "10.1.0.12"}
    assert wanted_hosts(PORTS, {"s11", "s12"}, everybody) == everybody
    assert wanted_hosts(PORTS, {"s12"}, everybody) == {"10.1.0.12"}
    assert wanted_hosts(PORTS, {"s11", "s12"}, {"fd00:1::11"}) == {"fd00:1::11"}


def test_a_neighbour_that_is_no_configured_host_has_no_route() -> None:
    assert wanted_hosts(PORTS, {"s11", "s12"}, {"10.1.0.99"}) == set()


def test_server_ports_open_only_when_the_way_out_has_been_there_for_a_while() -> None:
    monitor = MonitorLink(5)
    assert not monitor.update(way_out=True, now=10)
    assert not monitor.update(way_out=True, now=14.9)
    assert not monitor.open
    assert monitor.update(way_out=True, now=15)
    assert monitor.open


def test_server_ports_close_at_once_and_the_wait_starts_again() -> None:
    monitor = MonitorLink(5, open=True, way_out_since=0)
    assert monitor.update(way_out=False, now=20)
    assert not monitor.open
    assert not monitor.update(way_out=True, now=21)
    assert not monitor.update(way_out=True, now=25.9)
    assert monitor.update(way_out=True, now=26)


def test_a_host_is_routed_alone() -> None:
    assert (prefix("10.1.0.11"), prefix("fd00:1::11")) == ("10.1.0.11/32", "fd00:1::11/128")


HEARD = """
---- s11 ----
  status: active negotiated

member: s11: {status} attached
  port_id: 11
  may_enable: {enabled}

  partner state: activity timeout aggregation synchronized collecting distributing
"""


def test_a_partner_is_there_when_it_is_heard_and_hears_us() -> None:
    assert has_partner(HEARD.format(status="current", enabled="true"))
    assert not has_partner(HEARD.format(status="expired", enabled="false"))
    assert not has_partner(HEARD.format(status="current", enabled="false")), "it says that it does not hear us"
    assert not has_partner("")
