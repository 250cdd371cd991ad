"""Where sites run: Flower's simulation on Ray, or processes of this machine."""
