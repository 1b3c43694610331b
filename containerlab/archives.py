"""Container images that are made here and imported, not pulled: archives as ``docker save`` writes them, one layer."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """What a container finds at its root, by path without the first slash, and what it runs."""

    name: str
    programs: Mapping[str, bytes]
    """Files that anybody may read and run."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links: where they are, and what they say."""
    folders: Sequence[str] = ()
    """Empty ones."""
    entrypoint: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def archive(self) -> bytes:
        """Return what a runtime imports."""
        layer = _tar(self.programs, self.links, self.folders)
        variables = [f"{key}={value}" for key, value in self.env.items()]
        config = {
            "architecture": _ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "config": {"Entrypoint": list(self.entrypoint), "Env": variables},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]
        documents = {"config.json": config, "manifest.json": manifest}
        return _tar({"layer.tar": layer, **{name: json.dumps(said).encode() for name, said in documents.items()}})


def _tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None, folders: Sequence[str] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in folders:
            archive.addfile(_member(name, tarfile.DIRTYPE))
        for name, content in files.items():
            member = _member(name, tarfile.REGTYPE)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = _member(name, tarfile.SYMTYPE)
            member.linkname = target
            archive.addfile(member)
    return buffer.getvalue()


def _member(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, 0o755
    return member
