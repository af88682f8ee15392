"""The stages of `rsrc compile`, in the order in which pipeline.py calls them."""
