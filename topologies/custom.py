"""For Mininet's `mn` command: `mn --custom topologies/custom.py --topo ab --switch lxbr --controller none`."""

from punchlab.topologies import TOPOLOGIES

topos = TOPOLOGIES
