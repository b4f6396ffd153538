"""How an image forms: optics groups and the contrast transfer function."""
