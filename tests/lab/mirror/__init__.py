"""The lab mirror: a signed apt repository with the vendors' package names, made of distribution binaries."""
