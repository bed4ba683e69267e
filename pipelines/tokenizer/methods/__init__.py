"""Ways to learn a vocabulary; one file a method."""
