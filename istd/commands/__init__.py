"""The commands of `istd`, one a module; see `d2kit.commands`."""
