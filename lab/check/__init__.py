"""Does a NAT do what its behavior claims? Checked with sockets and packets."""
