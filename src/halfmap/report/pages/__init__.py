"""The pages, one a command."""
