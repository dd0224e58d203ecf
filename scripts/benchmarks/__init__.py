"""The parts of scripts/bench, bench-exchange and bench-futures."""
