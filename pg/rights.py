"""Whether this role may do what attaching needs: be Immich's own, and make a schema."""

from __future__ import annotations

from pg.connect import Connection
from pg.query import fetch_one

# A superuser counts as a member of every role.
_RIGHTS = """
    SELECT current_user::text, current_database()::text, pg_get_userbyid(c.relowner)::text,
           c.relowner = r.oid OR NOT r.rolsuper AND pg_has_role(c.relowner, 'USAGE'),
           has_database_privilege(current_database(), 'CREATE'),
           pg_get_userbyid(n.nspowner)::text,
           n.oid IS NULL OR pg_has_role(n.nspowner, 'USAGE')
    FROM pg_class c
    JOIN pg_roles r ON r.rolname = current_user
    LEFT JOIN pg_namespace n ON n.nspname = 'indexer_v1'
    WHERE c.oid = 'public.asset'::regclass
"""


def problem_with_rights(connection: Connection) -> str | None:
    """What keeps this role from attaching, and what to do; None where nothing does.

    Immich's triggers run as Immich's role: what another role had made here, it mightn't use, and
    no event would become a job. Its backups would lack the rights on it, too.

    Args:
        connection: to a database that has a table public.asset.
    """
    role, database, owner, is_immichs, may_create, schema_owner, may_change = fetch_one(
        connection, _RIGHTS
    )
    if not is_immichs:
        return (
            f"Immich's tables belong to the role {owner!r}, but this is {role!r}. Connect as the"
            f" role that Immich itself connects as: DB_USERNAME={owner}, or the one in DB_URL."
        )
    if not may_create:
        return (
            f"The role {role!r} may not make a schema in the database {database!r}. As a superuser,"
            f' run: GRANT CREATE ON DATABASE "{database}" TO "{role}"'
        )
    if not may_change:
        return (
            f"The schema indexer_v1 belongs to the role {schema_owner!r}, not to {role!r}, Immich's"
            f" own: run immich-indexer detach as {schema_owner!r} or as a superuser, then this"
            " again."
        )
    return None
