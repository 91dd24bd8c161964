"""From a configuration file to a finished run directory."""
