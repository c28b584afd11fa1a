"""Checks of the iOS demo that need no Xcode: `make test-ios`."""
