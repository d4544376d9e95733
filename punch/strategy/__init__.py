"""Strategies of hole punching: one module each, with its theory at the top."""
