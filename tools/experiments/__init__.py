"""These modules run grids of trainings for compare, ablate, reproduce_table and demo_istd."""
