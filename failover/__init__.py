"""Failover: who is dead, who takes over, and the taking over.

Knows nothing of the gateway or of the state store: both come in through small protocols
(`registry.Registry`, `manager.Armer`, callables). `detector`, `decide` and `lease` do no I/O and
read no clock; `addresses`, `probing` and `manager` perform.
"""
