"""Outcome prediction (the oracle): whether two hosts can connect directly, with what probability, and how fast."""
