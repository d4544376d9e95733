"""The code, the keys that are derived from it, and the encrypted channel."""
