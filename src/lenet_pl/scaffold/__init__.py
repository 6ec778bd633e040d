"""A project of your own, made from this one; can be deleted."""
