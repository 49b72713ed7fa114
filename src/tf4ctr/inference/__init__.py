"""A finished run and new rows: evaluation, prediction, export, serving."""
