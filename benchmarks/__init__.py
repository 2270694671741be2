"""Measurements through the public interfaces; each prints its machine, commit and seed."""
