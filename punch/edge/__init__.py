"""The edge endpoint: tells two clients of one session about each other, alone or as a mesh of endpoints."""
