"""What several test modules share: checkpoints, matrices, models and damaged files."""
