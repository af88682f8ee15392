"""What `rsrc inspect`, `verify` and `info` find out; nothing is written."""
