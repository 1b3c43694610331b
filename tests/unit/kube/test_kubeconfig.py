"""Commands reach the cluster that kubectl reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from routed.audit.settings import load
from routed.kube.kubeconfig import users


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("said", "found"),
    [("", "{0}/.kube/config"), ("audit", "{0}/audit"), ("~/one:/etc/two:", "{0}/one:/etc/two")],
    ids=["the usual one", "from here", "several"],
)
def test_the_environment_says_which(home: Path, monkeypatch: pytest.MonkeyPatch, said: str, found: str) -> None:
    monkeypatch.setenv("KUBECONFIG", said)
    assert str(users()) == found.format(home)


def test_an_audit_file_elsewhere_means_the_same_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "audit")
    file = home / "etc/audit.yaml"
    file.parent.mkdir()
    for said, meant in (("{}", home / "audit"), ("{kubeconfig: audit}", file.with_name("audit"))):
        file.write_text(f"kubernetes: {said}\n")
        settings = load(file)
        assert settings.kubernetes is not None
        assert settings.kubernetes.kubeconfig is not None
        assert settings.path(settings.kubernetes.kubeconfig) == meant
