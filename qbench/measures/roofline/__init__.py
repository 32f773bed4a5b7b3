"""How near a measurement comes to the limits of the device."""
