"""The extra `server`: rerank over HTTP in the shapes that existing clients speak, with a page to try it on."""
