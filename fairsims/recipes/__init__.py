"""Recipes of audits: what they run, carrying them out again, and holding the result against what is recorded."""

from fairsims.recipes.recipe import RESULTS, Recipe, find_recipe, list_recipes, read_recipe, recipes_folder

__all__ = ["RESULTS", "Recipe", "find_recipe", "list_recipes", "read_recipe", "recipes_folder"]
