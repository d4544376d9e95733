"""The benchmark: how quick labs and trials are, beside what there is to compare them with. `script/bench` runs it."""
