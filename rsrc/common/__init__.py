"""What every stage of the compiler uses: errors, progress, console output, scratch folders."""
