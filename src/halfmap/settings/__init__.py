"""What a user can choose. The command line, ``settings.toml`` and the report are all made from these fields."""
