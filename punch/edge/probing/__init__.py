"""The edge's part of a probe: STUN, and connections back to the client."""
