"""Values and ports that every other layer shares. Nothing here does I/O."""
