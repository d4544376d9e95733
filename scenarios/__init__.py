"""The scenarios that users run in CI: `pytest scenarios/`."""
