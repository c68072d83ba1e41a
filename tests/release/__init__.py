"""What makes releases and checks them: the scripts behind `make dist`, `dist-demo`, `sbom` and `licences`."""
