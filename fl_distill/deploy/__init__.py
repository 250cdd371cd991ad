"""Federations of real sites: certificates, keys, and the processes that join them."""
