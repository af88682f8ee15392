"""The stages of `rsrc compile`: recognize, plan, index, record."""
