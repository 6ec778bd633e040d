"""The checks that ``benchmarks/trust.py`` repeats, one module per kind of trouble."""
