"""Public ranking benchmarks and the held-out rows: read, asked, scored by the published and by honest rules, reported."""
