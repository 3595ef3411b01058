"""Labels are ranked by what speaks against them, shown in a browser, and corrected by what people decided."""
