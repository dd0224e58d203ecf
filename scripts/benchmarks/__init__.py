"""What scripts/bench, bench-exchange and bench-futures are made of, a noun a module."""
