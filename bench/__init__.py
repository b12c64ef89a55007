"""Benchmarks: synthetic families, mergekit as the oracle, and the tables of docs/performance.md.

Run as `make bench` or `python -m bench`. Nothing here is installed with the wheel, and nothing here is used by
`engine`, `search` or `cluster`: the files are written and read by code of their own, so that a mistake in the
engine's reader or writer cannot hide itself.
"""
