"""The expectation step: find each image's pose against the reference, and how sure it is."""
