"""What an agent in a cluster has to do with the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from routed.kube.api import Api
from routed.kube.events import Events, Subject


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server, and who this server is to it."""

    api: Api
    node: str
    """Name of this server's Node."""
    events: Events
    rng: Random

    @property
    def subject(self) -> Subject:
        """This server's Node as the subject of an event, named as kubelet names it."""
        return Subject.node(self.node, self.node)
