"""What a project's pages are: the project as its document tells it, the pages rendered from it, the metadata in
its distribution files. Pure: from data to data. It may import common."""
