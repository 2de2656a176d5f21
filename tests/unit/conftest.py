"""What unit tests share."""

from hypothesis import settings

# A busy machine is no failure: no test here is about time.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
