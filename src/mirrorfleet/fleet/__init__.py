"""Who could serve and who does: the registry, what was found of each mirror, where it stands and why, the
documents that tell it. The base of the wing of the fleet: it may import common."""
