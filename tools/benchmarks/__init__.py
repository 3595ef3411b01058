"""Benchmarks of s4m and istd: `harness` checks and measures, each other module holds the scenarios of one topic."""
