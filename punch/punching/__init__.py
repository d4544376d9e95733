"""Candidates, their limits, connection attempts, and the agreement on one connection."""
