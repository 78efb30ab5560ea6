"""The stand-in container toolkit, a test double: its programs and the packages that bring them. See README.md."""
