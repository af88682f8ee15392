"""What differs between two `.rsr` files: `.rsrd` files, and statistics of changed weights."""
