"""Topologies of the lab, as Mininet topologies."""
