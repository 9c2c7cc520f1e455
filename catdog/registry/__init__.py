"""The champion, its evidence, the ledger of looks at test splits; deletion and cleaning."""
