"""The client under test: description, contract, processes and edges."""
