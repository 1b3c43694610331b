"""The vendors' names, by themselves: the command line shows them without loading the rest."""

from __future__ import annotations

from enum import StrEnum


class VendorName(StrEnum):
    """What `--vendor` takes."""

    FRR = "frr"
    SONIC = "sonic"
    CUMULUS = "cumulus"
    EOS = "eos"
    NXOS = "nxos"
    JUNOS = "junos"
    SRLINUX = "srlinux"
