"""Growth: a small trained model becomes the start of a larger one."""
