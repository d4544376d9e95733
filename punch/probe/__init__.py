"""What am I behind? NAT behavior discovery by sockets alone: the client's tests, and the edge's side of them."""
