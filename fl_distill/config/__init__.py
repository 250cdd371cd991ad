"""Configuration: Hydra's YAML in (`compose`), typed values out (`experiment`). Composing needs no torch."""
