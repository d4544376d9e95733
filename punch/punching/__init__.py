"""Candidates, their limits, the attempts to connect, and the agreement on one connection."""
