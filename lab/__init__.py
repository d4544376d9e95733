"""The emulated Internet: nodes, links, NATs, captures and trials inside one sandbox."""
