"""The command: where the text goes, what is refused, and that a secret stays one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from containerlab.topology import TWO_RACKS

ROUTED = Path(sys.executable).with_name("routed")
LAB = TWO_RACKS.parent / "racks" / "r1.yaml"
EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
MANIFEST = EXAMPLE.parent / "deploy" / "kustomize" / "example" / "r1.yaml"


def tor_config(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(ROUTED), "tor-config", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_tor_goes_to_standard_output() -> None:
    done = tor_config("--vendor", "frr", "--tor", "r1b", LAB)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (TWO_RACKS.parent / "configs" / "r1b" / "frr.conf").read_text()


def test_files_of_one_tor_are_told_apart_on_standard_output() -> None:
    done = tor_config("--vendor", "cumulus", "--tor", "r1a", EXAMPLE)
    headings = [line for line in done.stdout.splitlines() if line.startswith("####")]
    assert headings == [
        "######## r1a.frr.conf: /etc/frr/frr.conf",
        "######## r1a.interfaces: /etc/network/interfaces",
    ]


def test_all_tors_go_into_a_folder(tmp_path: Path) -> None:
    done = tor_config("--vendor", "junos", "--output-dir", tmp_path / "new" / "folder", EXAMPLE)
    assert done.returncode == 0
    written = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert written == ["r1a.junos.conf", "r1b.junos.conf"]
    assert done.stdout.count("placeholders to fill in") == 2
    again = tor_config("--vendor", "junos", "--output-dir", tmp_path / "new" / "folder", EXAMPLE)
    assert again.returncode == 0, "files of an earlier run are replaced"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vendor", "frr", LAB], "has 2 ToRs: name one with --tor, or take --output-dir for all"),
        (["--vendor", "frr", "--tor", "r9a", LAB], "there is no ToR 'r9a' in this rack; there are r1a, r1b"),
        (["--vendor", "eos", "--tor", "r1a", LAB], "fabric.gateway.interface: 'gw' is no VLAN's interface"),
        (["--vendor", "frr", "--tor", "r1a", "/no/such.yaml"], "/no/such.yaml: No such file"),
        (["--vendor", "frr", "--tor", "r1a", "--password-file", "/no/such", LAB], "/no/such: "),
        (["--vendor", "frr", "--output-dir", "/dev/null/folder", LAB], "/dev/null/folder: Not a directory"),
        (["--vendor", "frr"], "say which rack: by its RACKFILE, or with --rack"),
        (["--vendor", "frr", MANIFEST], "r1.yaml is no rack file: its rack is a Rack object"),
        (
            ["--vendor", "frr", MANIFEST.with_name("agent.yaml")],
            "agent.yaml is no rack file: its rack is a Rack object",
        ),
        (["--vendor", "frr", "--rack", "r1", LAB], "r1.yaml: no Rack, no Node, and no List of these; a rack file goes"),
        (
            ["--vendor", "frr", "--rack", "r1", "--kubeconfig", "/no/such"],
            "no API server can be reached (/no/such): there is no such file",
        ),
        (["--vendor", "frr", "--rack", "r1", "--kubeconfig", "/dev/null"], "no API server can be reached (/dev/null)"),
        (["--vendor", "frr", "--tor", "r1a", "--fabric", LAB, LAB], "r1.yaml has a `fabric` section of its own"),
        (["--vendor", "frr", "--tor", "r1a", "--fabric", LAB, EXAMPLE], "rack: unknown key"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_status_2(arguments: list[object], said: str) -> None:
    done = tor_config(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("routed: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_vendor_is_answered_with_the_known_ones() -> None:
    done = tor_config("--vendor", "acme", "--tor", "r1a", LAB)
    assert done.returncode == 2
    assert all(vendor in done.stderr for vendor in ("frr", "sonic", "cumulus", "eos", "nxos", "junos", "srlinux"))


def test_a_secret_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    rack, secret, folder = tmp_path / "rack.yaml", tmp_path / "secret", tmp_path / "out"
    rack.write_text(LAB.read_text().replace("password_file: null", "password_file: /etc/routed/secret"))
    secret.write_text("of-both\n")
    assert "password <md5-key>" in tor_config("--vendor", "frr", "--tor", "r1a", rack).stdout
    for _ in range(2):
        done = tor_config("--vendor", "frr", "--output-dir", folder, "--password-file", secret, rack)
        assert (done.returncode, "of-both" in done.stdout) == (0, False)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert "password of-both" in (folder / "r1a.frr.conf").read_text()


@pytest.mark.parametrize("content", ["", "two words", "two\nlines", 'quo"te', "brace}"])
def test_a_secret_that_a_vendor_could_not_read_is_refused(tmp_path: Path, content: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(content)
    done = tor_config("--vendor", "frr", "--tor", "r1a", "--password-file", secret, LAB)
    assert (done.returncode, "needs one line" in done.stderr) == (2, True)


def test_the_fabric_section_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    document = yaml.safe_load(LAB.read_text())
    fabric, rack = tmp_path / "fabric.yaml", tmp_path / "rack.yaml"
    fabric.write_text(yaml.safe_dump({"fabric": document.pop("fabric")}))
    rack.write_text(yaml.safe_dump(document, sort_keys=False))
    done = tor_config("--vendor", "frr", "--tor", "r1b", "--fabric", fabric, rack)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (TWO_RACKS.parent / "configs" / "r1b" / "frr.conf").read_text()
