"""Attackers of an edge and of its clients, in a node of a lab or on loopback in the project's own tests.

`clients` violate the protocol, `frames` are their messages, `edge` is an edge that changes messages.
"""
