"""Pages of HTML that tell what trainings did: each is one file without scripts, and nothing in it is loaded."""
