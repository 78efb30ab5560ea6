"""The lab: throwaway hosts with a real systemd, made from a distribution's packages. See README.md."""
