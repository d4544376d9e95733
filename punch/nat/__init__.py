"""What NATs are, as knowledge that a client needs. Imports nothing else of this project."""
