"""The tables' history (Alembic).  Migrations name tables themselves and import no models: those change."""
