"""The commands of `s4m`, one a module; see `d2kit.commands`."""
