"""Hydra configuration groups, found as `pkg://fl_distill.conf`."""
