"""Everything above a single training: folders of runs, sweeps, searches, comparisons."""
