"""A stand-in for the NVIDIA Container Toolkit (a test double): standard library only, for any Python from 3.10 on."""
