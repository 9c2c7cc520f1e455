"""What makes training faster, each piece behind a switch."""
