"""Many runs side by side: a table, figures and one page."""
