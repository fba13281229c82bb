"""Records into tables, figures and pages."""
