"""NAT behaviors that a client needs to know. This package imports only `punch.text`."""
