"""The client: connects to its peer through an edge, punches, and keeps the tunnel."""
