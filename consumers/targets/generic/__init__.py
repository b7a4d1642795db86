"""Any database that SQLAlchemy has a dialect for."""

from consumers.targets.generic.target import GenericTarget

__all__ = ["GenericTarget"]
