"""A small extension in the layout of Isaac Lab's template, with tasks of MuJoCo instead of Isaac Sim's."""
