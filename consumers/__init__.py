"""The apply side: consumers bring the topics ' events to target databases."""
