"""The commands of `istd`, each of which is one module; see `d2kit.commands`."""
