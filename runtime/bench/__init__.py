"""Speed and memory of a bundle's engines: on this machine, taking turns, or on a phone through adb."""
