"""The stand-in driver, a test double: libraries, nvidia-smi, nodes and the traces of a kernel module. See README.md."""
