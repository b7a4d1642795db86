"""`cdc rebuild`: a target's tables, made anew from the log beside the live ones."""
