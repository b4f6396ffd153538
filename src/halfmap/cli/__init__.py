"""The ``halfmap`` command line: one file for commands of a kind, and the program that runs them."""
