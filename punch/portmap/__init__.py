"""A port of the NAT, asked for: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD, behind one `lease.mapping`."""
