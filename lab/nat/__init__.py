"""NATs of the lab: presets, and the rules that implement a behavior on a Linux node."""
