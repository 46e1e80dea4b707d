"""The learning floor: absorption, merging and inference come here. Nothing is here yet."""
