"""How to get through two NATs: one module per strategy, each with its theory at the top."""
