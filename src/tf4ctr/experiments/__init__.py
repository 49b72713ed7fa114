"""What stands above one training: runs' folders, sweeps, searches, comparisons."""
