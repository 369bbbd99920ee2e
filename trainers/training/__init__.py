"""Training: from trajectories or pairs to a checkpoint."""
