"""How the endpoints of an edge network pass messages among themselves.

`interface` says what a bus promises; `local` is that of a lone endpoint, `mesh` links endpoints directly, `nats` goes
through NATS servers. What an endpoint remembers, with any of the latter two, is `memory`.
"""
