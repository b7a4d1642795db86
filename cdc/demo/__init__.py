"""`cdc demo`: the main job on embedded servers, with proof."""
