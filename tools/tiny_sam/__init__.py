"""How the tiny SAM that s4m carries came to be: synthetic scenes, batches of prompts, training and measured quality."""
