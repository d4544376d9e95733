"""Interfaces to Linux: namespaces, netlink, mounts, sysctl, processes."""
