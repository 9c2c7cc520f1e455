"""The config: schema, ranges, composition, options of commands."""
