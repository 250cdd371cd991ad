"""Federations over a network: the operator's SuperLink each site's SuperNode, TLS and keys."""
