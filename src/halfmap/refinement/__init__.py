"""The engine: expectation, maximisation and what surrounds them, until the map stands still. Begin with refine.py."""
