"""Models of the Hugging Face Hub: their names, their downloads, and the directories of its cache."""
