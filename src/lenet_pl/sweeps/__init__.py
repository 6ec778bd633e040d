"""Planning, running and summarising sweeps."""
