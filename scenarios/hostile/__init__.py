"""Attackers of an edge and of its clients: in a node of a lab, or on the loopback network in the project's own tests.

`clients` are many that follow no rules, `frames` what they say, `edge` is an edge that changes what it passes on.
"""
