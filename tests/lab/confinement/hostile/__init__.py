"""A hostile client: a program that tries to reach what is outside of its role. `attempts` has what it tries."""
