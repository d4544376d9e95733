"""Sockets, interfaces and WebSockets, shared by client, edge and probe."""
