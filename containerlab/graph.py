"""The picture of a topology, as a Mermaid diagram: a box per node, a line per cable with its ends written on it."""

from __future__ import annotations

from containerlab.topology import Topology


def mermaid(plan: Topology) -> str:
    """Return the diagram; nodes of a group stand together, in the order of the file."""
    lines = ["graph TD"]
    for group in dict.fromkeys(node.group for node in plan.nodes.values()):
        names = [node.name for node in plan.nodes.values() if node.group == group]
        lines += [f"  subgraph {group}", *(f"    {name}" for name in names), "  end"] if group else names
    for link in plan.links:
        left, right = link.ends
        lines.append(f'  {left.node} ---|"{left.interface} : {right.interface}"| {right.node}')
    return "\n".join(lines)
