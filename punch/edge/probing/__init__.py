"""The edge's part of a probe: a STUN server, and connections back to the client."""
