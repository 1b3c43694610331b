"""What the demo takes from the fabric's files."""

from __future__ import annotations

from containerlab.scenes import Scenes
from containerlab.story import Story


def test_the_demo_has_the_racks_and_servers_of_its_fabric_each_of_them_once() -> None:
    scenes = Scenes(Story("a test"), "never up")
    assert [rack.rack for rack in scenes.racks] == ["r1", "r2"]
    assert scenes.servers == ["s11", "s12", "s21", "s22"]
