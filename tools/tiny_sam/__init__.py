"""These modules made the tiny SAM that s4m carries: scenes, batches of prompts, training and measured quality."""
