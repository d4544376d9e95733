"""The files of a transfer: reading those to send, and storing those received."""
