"""Confinement of programs that nobody has to trust: what they see, and what they may do.

`shares` decides what of the machine a program is shown, `paths` looks it up, and `view` makes the file system of it;
`privileges` takes away what a node does not need, and `seccomp` is the filter of system calls. `docs/security.md` says
against whom this holds.
"""
