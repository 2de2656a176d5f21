"""How well recall finds what it should, measured on conversations and questions whose answers are known.

questions   pure: the file -> conversations, or what is wrong with it and where
measures    pure: what was found and what should have been -> figures
trial       imports a file into a scratch scope, asks through the product's own recall and packing, cleans up
"""
