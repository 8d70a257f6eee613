"""The user's commands: flags and one call into the library, for the scripts in tools/ and for `ssd-train` and so on."""
