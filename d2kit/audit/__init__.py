"""Pages on which people review labels in a browser, and the decisions that they save."""
