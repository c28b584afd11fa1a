"""The Android demo: a Kotlin app, and what checks it where there is no Android SDK."""
