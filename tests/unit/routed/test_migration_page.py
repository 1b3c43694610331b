"""What docs/migration.md has an operator write and type is what the code takes and tells."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from routed.cni.install import CONFIGURATION
from routed.doctor import strangers
from routed.settings import BridgeSettings, LegacySettings

PAGE = (Path(__file__).parents[3] / "docs" / "migration.md").read_text(encoding="utf-8")


def test_the_setting_is_taken() -> None:
    [text] = re.findall(r"^ *```yaml\n(.*?)^ *```", PAGE, flags=re.MULTILINE | re.DOTALL)
    settings = BridgeSettings.model_validate(yaml.safe_load(text)["bridge"])
    assert settings.legacy is not None
    assert settings.legacy.vlans == (200,)
    assert set(LegacySettings.model_fields) == {"vlans", "prefixes"}


def test_the_way_back_ends_routed_pods_while_there_is_an_agent_and_protects_them_until_they_have_gone() -> None:
    [block] = re.findall(r"^```console\n(# kubectl cordon.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    left = ("owner=routed", "del-port", "external_ids owner", "standalone")
    steps = ("delete pod", "routed drain", "systemctl", CONFIGURATION, *left)
    assert re.findall("|".join(map(re.escape, steps)), block) == list(steps)


def test_the_doctor_tells_of_the_page_and_the_page_of_its_command() -> None:
    told = Path(strangers.__file__).read_text(encoding="utf-8")
    assert '"docs/migration.md"' in told
    for text in (told.replace("{name}", "br0"), PAGE):
        assert "ovs-vsctl set-fail-mode br0 secure && ovs-ofctl add-flow br0 priority=0,actions=NORMAL" in text
