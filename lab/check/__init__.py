"""Check with sockets and packets whether a NAT has the behavior that it claims."""
