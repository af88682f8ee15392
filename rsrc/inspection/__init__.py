"""Look into `.rsr` files and sources: inspect, verify, info."""
