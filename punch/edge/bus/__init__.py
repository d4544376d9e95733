"""The bus by which the endpoints of an edge network exchange messages.

`interface` defines a bus; `local` is the bus of a single endpoint, `mesh` links endpoints directly, and `nats` uses
NATS servers. `store` keeps the messages of the latter two.
"""
