"""Benchmark of labs and trials, in comparison with other tools. `script/bench` runs it."""
