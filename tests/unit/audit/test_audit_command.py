"""`routed audit` as a user runs it: exit statuses, what goes where, baselines, the page, one address, watching."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from routed.cli.main import app
from routed.settings import SettingsError
from tests.fakes.audit_site import Site

ROUTED = Path(sys.executable).with_name("routed")
HEARING: tuple[str | Path, ...] = ("env", "--default-signal")
"""Signals do what they always do, also when the tests run in the background, where a shell has SIGINT ignored."""
STRAY = ("10.101.1.77/32", "10.1.0.12")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.settings()
    return found


def audit(site: Site, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", "--config", str(site.folder / "audit.yaml"), *map(str, arguments)])


def break_it(site: Site) -> None:
    """Take a pod's route from one ToR, and give it one that no pod has."""
    site.write("r1a", [*site.own, *site.hosts[1:], STRAY])


def blind(site: Site) -> None:
    (site.folder / "r1b").unlink()


# ---- exit status


def test_clean_is_0_and_one_line(site: Site) -> None:
    done = audit(site)
    assert (done.exit_code, done.stdout) == (0, "2 addresses in 1 rack, 2 ToRs, no findings\n")


def test_findings_are_1_also_when_something_is_blind(site: Site) -> None:
    break_it(site)
    assert audit(site).exit_code == 1
    blind(site)
    done = audit(site)
    assert done.exit_code == 1
    assert "unknown" in done.stdout


def test_blind_alone_is_3_and_never_clean(site: Site) -> None:
    blind(site)
    done = audit(site)
    assert done.exit_code == 3
    assert "r1b knows nothing" in done.stdout
    assert "1 of 2 ToRs, no findings, 1 could not be observed" in done.stdout


def test_without_racks_nothing_can_be_observed(site: Site) -> None:
    site.settings(racks=[], kubernetes={"kubeconfig": str(site.folder / "none")})
    done = audit(site)
    assert done.exit_code == 3
    assert done.stderr.startswith("routed: could not observe: ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "/no/such.yaml"], "/no/such.yaml: No such file"),
        (["--baseline", "/no/such.txt"], "baseline /no/such.txt: "),
        (["racks", "r9"], "there is no rack 'r9'; there are r1"),
        (["explain", "10.101.0"], "'10.101.0' is no IP address"),
        (["explain", "10.101.0.0/24"], "10.101.0.0/24 is 256 addresses; ask about one of them"),
        (["explain", "shop/none"], "no rack has a pod shop/none"),
    ],
)
def test_what_a_user_can_mend_is_one_line(site: Site, arguments: Sequence[str], said: str) -> None:
    done = audit(site, *arguments)
    assert isinstance(done.exception, SettingsError)
    assert said in str(done.exception)


@pytest.mark.parametrize("words", [["explain", "10.101.0.2"], ["racks"]], ids=["explain", "racks"])
@pytest.mark.parametrize("before", [True, False])
def test_the_command_line_beats_the_environment(site: Site, words: list[str], before: bool) -> None:
    named = ["--config", str(site.folder / "audit.yaml")]
    arguments = ["audit", *named, *words] if before else ["audit", *words, *named]
    runner = CliRunner(env={"ROUTED_AUDIT_CONFIG": "/no/such.yaml"})
    assert runner.invoke(app, arguments).exit_code == 0
    assert "/no/such.yaml" in str(runner.invoke(app, ["audit", *words]).exception)


def test_the_environment_names_the_file_for_every_command(site: Site) -> None:
    runner = CliRunner(env={"ROUTED_AUDIT_CONFIG": str(site.folder / "audit.yaml")})
    for words in ([], ["explain", "10.101.0.2"], ["racks"]):
        assert runner.invoke(app, ["audit", *words]).exit_code == 0


def test_without_any_file_the_way_to_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUTED_AUDIT_CONFIG", raising=False)
    done = CliRunner().invoke(app, ["audit"])
    assert str(done.exception).startswith("there is no /etc/routed/audit.yaml; name an audit file with --config")


def test_usage_is_2(site: Site) -> None:
    assert audit(site, "--output", "yaml").exit_code == 2
    done = subprocess.run([ROUTED, "audit", "-c", "/no/such"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# ---- outputs


def test_details_name_the_pod_the_planes_and_the_command(site: Site) -> None:
    break_it(site)
    text = audit(site, "--verbose").stdout
    for part in ("shop/cart", "announced  s11", "learned    r1b", "likely", "next    on r1a: vtysh -c"):
        assert part in text


def test_machines_get_nothing_else_on_standard_output(site: Site) -> None:
    break_it(site)
    document = json.loads(audit(site, "-o", "json").stdout)
    assert (document["version"], document["exit_status"]) == (1, 1)
    assert {finding["kind"] for finding in document["findings"]} == {"missing", "leaked"}
    assert audit(site, "-o", "csv").stdout.splitlines()[0].startswith("severity,kind,")
    assert audit(site, "-o", "junit").stdout.startswith("<?xml")


def test_page_is_written_beside_the_output(site: Site) -> None:
    break_it(site)
    done = audit(site, "--html", site.folder / "report.html")
    assert done.exit_code == 1
    assert "10.101.1.77" in (site.folder / "report.html").read_text(encoding="utf-8")
    refused = audit(site, "--html", site.folder)
    assert isinstance(refused.exception, SettingsError)


def test_baseline_accepts_what_it_was_written_for(site: Site) -> None:
    break_it(site)
    known = site.folder / "known.txt"
    written = audit(site, "--write-baseline", known)
    assert (written.exit_code, written.stderr) == (1, f"{known}: 2 faults; say why each is accepted, or remove it\n")
    done = audit(site, "--baseline", known)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "2 accepted by the baseline" in done.stdout
    site.write("r1a", [*site.own, *site.hosts, STRAY])
    repaired = audit(site, "--baseline", known)
    assert repaired.exit_code == 0
    assert repaired.stderr == "accepted and gone, remove it from the baseline: missing r1 10.101.0.2 r1a\n"
    assert ": 1 fault; say why" in audit(site, "--write-baseline", known).stderr
    site.write("r1a", [*site.own, STRAY])
    assert audit(site, "--baseline", known).exit_code == 1, "a route that is missing now was there before"


def test_racks_show_usage_and_who_has_what(site: Site) -> None:
    break_it(site)
    done = audit(site, "racks", "r1")
    assert done.exit_code == 1
    assert "10.101.0.0      xx!" in done.stdout
    (rack,) = json.loads(audit(site, "racks", "-o", "json").stdout)["racks"]
    assert {holding["address"] for holding in rack["holdings"]} == {"10.101.0.2", "fd00:101::1:0"}
    assert audit(site, "racks", "-o", "csv").stdout.splitlines()[1] == "r1,10.101.0.0/24,253,1,252"


# ---- one address


def test_story_of_a_pod_from_server_to_tor(site: Site) -> None:
    done = audit(site, "explain", "10.101.0.2")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "10.101.0.2 is shop/cart on s11, and reachable by r1a and r1b."
    planes = [line.split()[0] for line in lines[2:] if not line.startswith(" ")]
    assert planes == ["plan", "pod", "also", "announced", "session", "ToR"]
    assert "also       s11  its other address fd00:101::1:0 is well" in done.stdout
    assert len(lines) <= 24


def test_story_says_what_is_wrong_and_what_to_do(site: Site) -> None:
    break_it(site)
    done = audit(site, "explain", "10.101.0.2")
    assert done.exit_code == 1
    assert "missing" in done.stdout
    assert "next    on r1a: vtysh -c" in done.stdout
    assert audit(site, "explain", "fd00:101::1:0").exit_code == 0, "other addresses are fine"


def test_a_host_prefix_is_its_address(site: Site) -> None:
    assert audit(site, "explain", "10.101.0.2/32").stdout == audit(site, "explain", "10.101.0.2").stdout
    assert audit(site, "explain", "fd00:101::1:0/128").exit_code == 0


def test_a_pod_is_known_by_its_name(site: Site) -> None:
    break_it(site)
    done = audit(site, "explain", "shop/cart")
    assert done.exit_code == 1
    first, second = (line for line in done.stdout.splitlines() if line.startswith(("10.101.0.2 ", "fd00:101::1:0 ")))
    assert "no route on r1a" in first
    assert second == "fd00:101::1:0 is shop/cart on s11, and reachable by r1a and r1b."
    assert "also       s11  its other address 10.101.0.2 (shop/cart on s11): no route on r1a" in done.stdout


def test_a_pod_that_a_silent_agent_may_have_is_not_absent(site: Site) -> None:
    (site.folder / "s12.json").unlink()
    done = audit(site, "explain", "shop/none")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "nobody who answered has a pod shop/none; not seen: s12" in done.stderr
    assert audit(site, "explain", "shop/cart").exit_code == 3, "another agent could not be observed"


def test_story_that_nobody_could_see_is_3(site: Site) -> None:
    blind(site)
    done = audit(site, "explain", "10.101.0.2")
    assert done.exit_code == 3
    assert "could not be observed: " in done.stdout


def test_story_of_a_stranger(site: Site) -> None:
    done = audit(site, "explain", "192.0.2.1")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "192.0.2.1 is in no prefix of any rack's plan.")


def test_an_address_of_a_rack_whose_file_is_missing_is_not_well(site: Site) -> None:
    """Spines first; a default route, and what a switch has of itself, are no sign of a rack."""
    away, plain = "10.109.1.9", "10.109.2.9"
    site.write("r1a", [*site.own, *site.hosts, ("10.109.1.0/24", "10.254.1.2"), ("0.0.0.0/0", "10.254.1.2")])
    site.write("r1b", [*site.own, *site.hosts, ("10.109.2.0/24", None)])
    done = audit(site, "explain", away)
    assert done.exit_code == 3
    said = "10.109.1.9 is in no rack that is known, but r1a has 10.109.1.0/24 from AS 65500: is a rack's file missing?"
    assert done.stdout.splitlines()[0] == said
    assert audit(site, "explain", plain).exit_code == 0
    site.settings(switches=site.settings().switches.model_dump() | {"spines": ["sp1", "sp2"]})
    for spine in ("sp1", "sp2"):
        site.write(spine, [("10.109.1.0/24", "10.254.1.3")])
    assert "but sp1 and sp2 have 10.109.1.0/24 from AS 65500: " in audit(site, "explain", away).stdout


# ---- ending


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_audit_that_is_told_to_end_leaves_nothing(site: Site, number: signal.Signals) -> None:
    told = site.folder / "told"
    os.mkfifo(told)
    command = ["sh", "-c", f"[ {{name}} = r1a ] || exit 1; echo $$ > {told}; exec sleep 1000"]
    site.settings(switches={"defaults": {"source": "frr", "command": command}}, timeout_s=1000)
    with subprocess.Popen([*HEARING, ROUTED, "audit", "--config", site.folder / "audit.yaml"]) as process:
        try:
            child = int(told.read_text())
            process.send_signal(number)
            assert process.wait(60) == 128 + number
            assert not Path(f"/proc/{child}").exists()
        finally:
            process.kill()


# ---- watching


def test_watch_tells_what_comes_and_goes_and_ends_with_the_last_status(site: Site) -> None:
    command = [*HEARING, ROUTED, "audit", "watch", "--config", site.folder / "audit.yaml", "--interval", "1"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as watch:
        try:
            assert watch.stdout is not None
            assert "no findings" in watch.stdout.readline()
            site.write("r1b", [*site.own, *site.hosts, STRAY])
            assert watch.stdout.readline().endswith(" UTC\n")
            assert watch.stdout.readline().split()[:3] == ["+", "warning", "leaked"]
            assert "1 finding" in watch.stdout.readline()
            watch.send_signal(signal.SIGINT)
            assert (watch.stdout.read(), watch.wait()) == ("", 1)
        finally:
            watch.kill()
