"""NATs of the lab: names for behaviors, and the rules that make a Linux node behave so."""
