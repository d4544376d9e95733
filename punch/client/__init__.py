"""The hole-punching client: meets its peer through an edge, punches, and moves files over the tunnel."""
