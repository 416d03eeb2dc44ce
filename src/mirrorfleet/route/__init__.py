"""Which mirror a client's file comes from: files on slots, slots on mirrors, mirrors in pools by where clients are,
and the maps by which nginx chooses as this room would. It may import fleet and common, and nothing but the command
line imports it."""
