"""The champion, its evidence, and the ledger of looks at test splits."""
