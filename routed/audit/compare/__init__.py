"""What is wrong with a rack and with the fabric: a pure comparison of planes.

`compare_rack` takes one rack at a time and keeps little of it; `compare_fabric` then judges what only all racks and the
spines together can tell.
"""

from routed.audit.compare.fabric import compare_fabric
from routed.audit.compare.poolmap import PoolMap
from routed.audit.compare.rack import RackResult, compare_rack, compare_server, doubts

__all__ = ["PoolMap", "RackResult", "compare_fabric", "compare_rack", "compare_server", "doubts"]
