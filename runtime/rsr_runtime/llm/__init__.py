"""Language models: generate text from a `.rsr` file alone."""
