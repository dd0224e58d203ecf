"""The parts of scripts/bench, bench-exchange, bench-futures and scale."""
