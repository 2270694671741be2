"""A virtual IMS Border Gateway Function whose calls survive the death of their gateway.

Knows its version and nothing else: the rooms are imported by name, never through this package.
"""

__version__ = "0.1.0"
