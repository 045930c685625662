"""What a user sees: tables, pages, notices, and text made safe to show."""
