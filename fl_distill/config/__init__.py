"""Configuration: Hydra's YAML in (`compose`), typed values out (`experiment`), which alone needs torch."""
