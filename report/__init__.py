"""Pictures, tables and README blocks of finished runs."""
