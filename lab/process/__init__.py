"""Programs in nodes: started in a network namespace, forked from a server, confined."""
