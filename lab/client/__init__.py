"""The client under test: its description, its contract, its processes and its edges."""
