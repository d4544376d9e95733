"""What crosses the tunnel: files, directories, streams, a pipe, forwarded ports."""
