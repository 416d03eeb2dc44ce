"""What a redirector publishes for people and programs: the list of mirrors with the pages of the fleet and of
each mirror. It may import fleet and common, and nothing but the command line imports it."""
