"""The typed fields of a bundle's manifest, their ranges and their consistency; `engines.manifest` reads the file."""
