"""Each module is a command of `s4m`; see `d2kit.commands`."""
