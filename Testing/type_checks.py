"""The checker that jaxtyping's import hook applies to every annotated function of the library under pytest."""

from beartype import BeartypeConf, beartype

# PEP 484 lets an int stand where a float is asked; beartype follows it only on request.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
