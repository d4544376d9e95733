"""The hole-punching client and the edge endpoint. They do not need the lab."""
