"""Outcome prediction: whether two hosts can connect, how likely, and how fast."""
