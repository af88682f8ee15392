"""Models of the Hugging Face Hub: their names, downloads, and the directories of the cache."""
