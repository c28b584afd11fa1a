"""What `make test-ios` does: the iOS demo checked on Linux, as far as that goes without Xcode."""
