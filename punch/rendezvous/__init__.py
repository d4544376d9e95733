"""The client's connection to its edges."""
