"""What a user can choose: the command line, ``settings.toml`` and the report all come from these fields."""
