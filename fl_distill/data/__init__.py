"""Datasets, how they are dealt to sites, and what the sites then hold."""
