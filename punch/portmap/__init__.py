"""Explicit port mappings: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD, all through `lease.mapping`."""
