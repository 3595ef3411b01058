"""The runner of grids of trainings behind compare, ablate, reproduce_table and demo_istd."""
