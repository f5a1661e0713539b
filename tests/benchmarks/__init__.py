"""Benchmarks: each script prints a ratio, its spread and how it was taken. See docs/performance.md."""
