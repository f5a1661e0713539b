"""Plans of runs: seeds, stages, ablations, comparisons, prediction."""
