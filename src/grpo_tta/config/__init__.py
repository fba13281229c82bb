"""What every room may use: how settings are checked and how they are written down."""
