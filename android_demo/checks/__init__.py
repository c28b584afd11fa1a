"""Checks of the Android demo that need neither an Android SDK nor Gradle: `make test-android`."""
