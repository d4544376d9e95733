"""What a tunnel transfers: files, directories, streams, a pipe, forwarded connections."""
