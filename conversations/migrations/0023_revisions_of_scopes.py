"""Each scope tells that its messages have been changed or removed, for what servers keep of it (see recall/cache.py).

Safe beside live traffic: a column with a constant default, and triggers on what is rare. Inserting messages, and what
the backlog does to them, calls none. A migration that changes the type of one of the columns that a trigger names has to
drop the trigger first. Citus has no triggers on distributed tables: there, servers keep nothing of a scope.
"""

from django.db import migrations, models

# One update of the scope's row in a transaction, however many messages it changes.
FUNCTIONS = """
CREATE FUNCTION conversations_message_rewritten() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE conversations_instance SET revision = txid_current()
    WHERE id = NEW.instance_id AND revision <> txid_current();
    RETURN NULL;
END $$;
CREATE FUNCTION conversations_messages_removed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE conversations_instance SET revision = txid_current()
    WHERE id IN (SELECT instance_id FROM gone) AND revision <> txid_current();
    RETURN NULL;
END $$;
"""
NO_FUNCTIONS = """
DROP FUNCTION conversations_message_rewritten();
DROP FUNCTION conversations_messages_removed();
"""

# The columns that recall reads.
TRIGGERS = """
DO $$ BEGIN
IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN RETURN; END IF;
CREATE TRIGGER message_rewritten
AFTER UPDATE OF instance_id, created, role, name, content, digest, asks, wish, abandoned, lexemes
ON conversations_message FOR EACH ROW EXECUTE FUNCTION conversations_message_rewritten();
CREATE TRIGGER messages_removed
AFTER DELETE ON conversations_message REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION conversations_messages_removed();
END $$;
"""
NO_TRIGGERS = """
DROP TRIGGER IF EXISTS message_rewritten ON conversations_message;
DROP TRIGGER IF EXISTS messages_removed ON conversations_message;
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0022_saved_filters")]

    operations = [
        migrations.AddField("instance", "revision", models.BigIntegerField(default=0, db_default=0)),
        migrations.RunSQL(FUNCTIONS, NO_FUNCTIONS),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
    ]
