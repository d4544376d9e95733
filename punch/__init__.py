"""The hole-punching client and the edge endpoint. Usable without the lab."""
