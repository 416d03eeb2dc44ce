"""What fills the private tree: upstream over HTTP, bandersnatch, rsync, our own dump, packages of the
operator's own; and what is complete in it. It may import served, index and common."""
