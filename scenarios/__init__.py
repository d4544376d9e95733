"""Scenarios that users run in CI: `pytest scenarios/`."""
