"""What a user meets after an export: open a bundle, run it, verify it. Never imports `export`."""
