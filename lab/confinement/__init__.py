"""Confinement of programs that nobody has to trust: what they see, and what they may do.

`view` makes the file system that a program sees, `privileges` takes away what a node does not need, `seccomp` is the
filter of system calls. `docs/security.md` says against whom this holds.
"""
