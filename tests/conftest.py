"""What every test shares."""

from hypothesis import settings

# A pause of the machine is no failure of the code: what must be bounded is tested by what it does, not by the clock.
settings.register_profile("derper", deadline=None)
settings.load_profile("derper")
