"""The code, the keys derived from it, and the encrypted channel."""
