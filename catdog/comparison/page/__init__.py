"""The comparison as a page: templates, script, figures, tables."""
