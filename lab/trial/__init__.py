"""One trial: control attempt, clients, outcome prediction, verdict, record."""
