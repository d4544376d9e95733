"""NAT behavior discovery with sockets alone: the tests that a client runs, and the messages between client and edge."""
