"""One trial: control dial, clients, outcome prediction, verdict, record."""
