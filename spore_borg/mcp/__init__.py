"""A face for agents comes here. Nothing is here yet."""
