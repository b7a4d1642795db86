"""Reading a TOML document so that whatever is wrong in it is reported with its line."""
